/**
 * One integer shared between the program and its device worker: 0 idle, 1 in a native call, 2 stopped for good.
 *
 * Node ends worker threads when the process exits. The binding of ONNX Runtime aborts the whole process when that happens
 * during a native call, so the exit waits for the call.
 *
 * @since 0.1.0
 */

/**
 * The shared integer.
 *
 * @category models
 * @since 0.1.0
 */
export type DeviceGate = Int32Array<SharedArrayBuffer>

/**
 * Makes a gate for a new worker.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (): DeviceGate => new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))

/**
 * Enters native code. False when the process is ending, and no native call may start any more.
 *
 * @category running
 * @since 0.1.0
 */
export const enter = (gate: DeviceGate): boolean => Atomics.compareExchange(gate, 0, 0, 1) === 0

/**
 * Leaves native code.
 *
 * @category running
 * @since 0.1.0
 */
export const leave = (gate: DeviceGate): void => {
  Atomics.store(gate, 0, 0)
  Atomics.notify(gate, 0)
}

/**
 * Waits, blocking, until the worker is outside native code, and keeps it there.
 *
 * @category running
 * @since 0.1.0
 */
export const stop = (gate: DeviceGate): void => {
  while (Atomics.compareExchange(gate, 0, 0, 2) === 1) Atomics.wait(gate, 0, 1)
}

/**
 * Entry of the worker thread: a `DeviceCore` behind a message port.
 *
 * @since 0.1.0
 */
import { parentPort, workerData } from "node:worker_threads"
import * as DeviceCore from "./DeviceCore.ts"

const port = parentPort!

const core = DeviceCore.make(workerData, (reply, transfer) => {
  port.postMessage(reply, transfer)
  // Without the port nothing holds the thread: it ends by itself, with all native objects freed before.
  if ("closed" in reply) port.close()
})

port.on("message", core.receive)
port.postMessage({ ready: true } satisfies DeviceCore.Reply)

// Loaded before anything else (`node --import`): whatever a library tries, no connection leaves this machine.
import net from "node:net";

const connect = net.Socket.prototype.connect;
const LOCAL = new Set(["127.0.0.1", "localhost"]);

net.Socket.prototype.connect = function (...args) {
  const [first] = Array.isArray(args[0]) ? args[0] : args;
  const host = typeof first === "object" ? first.host : args[1];
  // Tests look for this line on stderr: a library may swallow the error.
  if (!LOCAL.has(host)) {
    console.error(`foreign connection refused: ${host}`);
    throw new Error(`foreign connection refused: ${host}`);
  }
  return connect.apply(this, args);
};

// `node v8.mjs MODULE`: a WebAssembly module in V8, JSON lines on stdin and stdout.
//   { place: base64, bytes } -> address of so many zeroed bytes, 64-aligned, that start with those given
//   { call: symbol, args, times } -> seconds of so many calls
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setFlagsFromString } from "node:v8";

const module = await readFile(process.argv[2]);
if (!WebAssembly.validate(module)) setFlagsFromString("--experimental-wasm-relaxed-simd"); // Node 20 wants to be asked
const { exports } = (await WebAssembly.instantiate(module)).instance;
let top = exports.__heap_base.value;

function place({ place: data, bytes }) {
  const at = Math.ceil(top / 64) * 64, content = Buffer.from(data, "base64");
  top = at + bytes;
  const missing = Math.ceil((top + 64 - exports.memory.buffer.byteLength) / 65536);
  if (missing > 0) exports.memory.grow(missing);
  new Uint8Array(exports.memory.buffer, at, content.length).set(content);
  return at;
}

function time({ call, args, times }) {
  const kernel = exports[call], start = performance.now();
  for (let i = 0; i < times; i++) kernel(...args);
  return (performance.now() - start) / 1e3;
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  process.stdout.write(`${JSON.stringify("place" in request ? place(request) : time(request))}\n`);
}

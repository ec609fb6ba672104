// `node --experimental-wasm-relaxed-simd node.mjs RUNTIME`: a worker in Node, JSON lines on stdin and stdout.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { runInThisContext } from "node:vm";
import { server } from "./runtimes.mjs";

const require = createRequire(import.meta.url);
const content = (url) => readFileSync(String(url).startsWith("file:") ? fileURLToPath(url) : url);
const fetched = globalThis.fetch;

// what LiteRT.js takes from a page, and its script from Node
globalThis.self = globalThis;
globalThis.require = require;
globalThis.__filename = fileURLToPath(new URL("./node_modules/@litertjs/core/wasm/litert_wasm_internal.js", import.meta.url));
globalThis.__dirname = fileURLToPath(new URL("./node_modules/@litertjs/core/wasm/", import.meta.url));
globalThis.importScripts = (url) => runInThisContext(content(url).toString(), { filename: String(url) });
globalThis.fetch = async (url, options) => String(url.url ?? url).startsWith("file:")
  ? new Response(content(url.url ?? url), { headers: { "content-type": "application/wasm" } }) : fetched(url, options);

const env = {
  npm: new URL("./node_modules", import.meta.url).href,
  bytes: async (url) => new Uint8Array(content(url)),
  tfjs: async () => {
    const tf = require("@tensorflow/tfjs-core");
    const wasm = require("@tensorflow/tfjs-backend-wasm");
    wasm.setWasmPaths(fileURLToPath(new URL("./node_modules/@tensorflow/tfjs-backend-wasm/dist/", import.meta.url)));
    await wasm.setThreadsCount(1);
    await tf.setBackend("wasm");
    return tf;
  },
};

const answer = server(env, process.argv[2]);
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
console.log = console.warn = console.info = console.error;
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say({ ...await answer(JSON.parse(line)), engine: `${process.version}, V8 ${process.versions.v8}` });
  } catch (error) {
    say({ error: String(error?.message ?? error).slice(0, 500) });
  }
}

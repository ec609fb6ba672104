// `node chromium.mjs WORK`: workers in headless Chromium, JSON lines on stdin and stdout. WORK is served at /files/.
// One browser, and a page with a profile of its own for each `name`: idle browsers disturb more than idle pages.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join, normalize, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const [work] = process.argv.slice(2);
const here = fileURLToPath(new URL(".", import.meta.url));
const roots = { files: resolve(work), web: here };
const types = { mjs: "text/javascript", js: "text/javascript", html: "text/html", wasm: "application/wasm", json: "application/json" };

let code = 0; // bytes of scripts and modules that were loaded
const files = createServer(async (request, response) => {
  const [, root, ...rest] = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname)).split("/");
  try {
    if (!roots[root] || rest.includes("..")) throw new Error("no such file");
    const content = await readFile(join(roots[root], ...rest));
    const end = rest.at(-1).split(".").at(-1);
    if (["js", "mjs", "wasm"].includes(end) && rest.length > 1) code += content.length;
    response.writeHead(200, { "content-type": types[end] ?? "application/octet-stream" }).end(content);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((done) => files.listen(0, "127.0.0.1", done));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"],
});
const engine = `Chromium ${browser.version()}`;
const pages = new Map();

async function open(runtime) {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`http://127.0.0.1:${files.address().port}/web/page.html?${runtime}`);
  return page;
}

async function answer({ name, runtime, ...request }) {
  if (request.do !== "load") return pages.get(name).evaluate((r) => window.answer(r), request);
  await pages.get(name)?.context().close();
  const before = code;
  const page = await open(runtime);
  pages.set(name, page);
  const found = await page.evaluate((r) => window.answer(r), request);
  return { ...found, engine, code: code - before };
}

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
try {
  await (await open("")).context().close(); // the browser's own start is nobody's
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      say(await answer(JSON.parse(line)));
    } catch (error) {
      say({ error: String(error?.message ?? error).slice(0, 500) });
    }
  }
} finally {
  await browser.close();
  files.close();
}

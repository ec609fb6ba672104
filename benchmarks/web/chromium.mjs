// `node chromium.mjs RUNTIME WORK`: a worker in headless Chromium, JSON lines on stdin and stdout. WORK is served at /work/.
import { readFile, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, normalize, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const [runtime, work] = process.argv.slice(2);
const here = fileURLToPath(new URL(".", import.meta.url));
const roots = { work: resolve(work), web: here };
const types = { mjs: "text/javascript", js: "text/javascript", html: "text/html", wasm: "application/wasm", json: "application/json" };

let code = 0; // bytes of scripts and modules that the runtime made the page load
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
const profile = await mkdtemp(join(tmpdir(), "edgekit-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage();
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
try {
  await page.goto(`http://127.0.0.1:${files.address().port}/web/page.html?${runtime}`);
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    try {
      const answer = await page.evaluate((r) => window.answer(r), request);
      say({ ...answer, code, engine: /Chrome\/[\d.]+/.exec(await page.evaluate(() => navigator.userAgent))[0] });
    } catch (error) {
      say({ error: String(error?.message ?? error).slice(0, 500) });
    }
  }
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
  files.close();
}

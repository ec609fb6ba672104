"""The npm form in Node, and its page in a browser."""
import functools
import http.server
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from edgekit.pack import pack

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no Node here")


RELAXED = "--experimental-wasm-relaxed-simd"  # Node 20 hides it; later ones need no flag and still take it


def node(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(["node", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def packed(plain, tmp_path) -> Path:
    pack(plain, "npm", tmp_path / "packed")
    return tmp_path / "packed"


@needs_node
def test_selftest(either, tmp_path):
    pack(either, "npm", tmp_path / "packed")
    for flags in ([], [RELAXED]):
        done = node(*flags, "test.mjs", cwd=tmp_path / "packed")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(": ok, ") == 5
    assert not list(tmp_path.rglob("pwned"))


@needs_node
def test_the_selftest_can_fail(packed):
    vectors = packed / "vectors" / "run.bin"
    good = vectors.read_bytes()
    for at in (len(good) - 1, len(good) - 10, 4 * 4 + 8 + 2 + 3):  # bool, int64, float
        vectors.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1:])
        done = node("test.mjs", cwd=packed)
        assert done.returncode == 1 and done.stdout.count("WRONG") == 1, done.stdout + done.stderr
    for wrong in (good[:-1], good + b"x"):
        vectors.write_bytes(wrong)
        assert node("test.mjs", cwd=packed).returncode == 1


CHOICE = """
import { best } from "./index.js";
console.log(best().href.split("/").pop());
WebAssembly.validate = () => false;
console.log(best().href.split("/").pop());
"""


@needs_node
def test_the_module_that_the_engine_takes(packed):
    """The probe is refused by engines without relaxed SIMD and taken by those with it, as the module itself is."""
    (packed / "choice.mjs").write_text(CHOICE)
    done = node(RELAXED, "choice.mjs", cwd=packed)
    assert done.stdout.split() == ["tiny.relaxed.wasm", "tiny.wasm"], done.stderr


SCRIPT = r"""
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { EdgekitError, TinyModel, entries } from "edgekit-tiny";

const model = await TinyModel.load(), other = await TinyModel.load();
const x = new Float32Array([1, 2, 3, 4]), given = { x, count: new BigInt64Array([3n]), flag: new Uint8Array([1, 0]) };
const first = model.run(given);
assert.deepEqual(first, { y: new Float32Array([1, 4, 9, 16]), total: new BigInt64Array([3n]), flags: new Uint8Array([1, 0]) });
const state = model.save();
const second = model.run(given);
assert.deepEqual([...second.y], [2, 8, 18, 32]);
assert.deepEqual([...first.y], [1, 4, 9, 16], "earlier outputs are not touched");
assert.deepEqual(other.run(given), first, "instances are independent");
other.restore(state);
assert.deepEqual(other.run(given), second);
model.reset();
assert.deepEqual(model.run(given), first);
assert.deepEqual(model.run_in({ x }), { x_2: new Float32Array([1, 4, 9, 16]) });

const refused = (status, run) => assert.throws(run, (e) => e instanceof EdgekitError && e.status === status && e.message.startsWith("tiny: " + status));
refused("EK_COUNT", () => model.run());
refused("EK_COUNT", () => model.run({ x }));
refused("EK_DTYPE", () => model.run({ ...given, x: [1, 2, 3, 4] }));
refused("EK_DTYPE", () => model.run({ ...given, x: new Float64Array(4) }));
refused("EK_DTYPE", () => model.run({ x, count: given.count, toString: given.flag }));
refused("EK_BYTES", () => model.run({ ...given, x: new Float32Array(5) }));
refused("EK_STATE", () => model.restore(new Uint8Array(state.length)));
refused("EK_BYTES", () => model.restore(new Uint8Array(state.length - 1)));
refused("EK_STATE", () => model.restore("state"));
refused("EK_STATE", () => model.restore(new Uint8Array(1e6)));
assert.deepEqual([...model.run(given).y], [2, 8, 18, 32], "refusals change nothing");

const weights = new Uint8Array(await readFile("node_modules/edgekit-tiny/weights.bin"));
const wasm = await readFile("node_modules/edgekit-tiny/tiny.wasm");
const module = await WebAssembly.compile(wasm);
for (const files of [{ wasm, weights }, { wasm: module, weights: weights.buffer }, { wasm: new Response(wasm), weights: new DataView(weights.buffer) }]) {
  assert.deepEqual((await TinyModel.load(files)).run(given), first);
}
const damaged = weights.slice();
damaged[70] ^= 1;
for (const [status, files] of [
  ["EK_WEIGHTS_CHECKSUM", { weights: damaged }], ["EK_WEIGHTS_SIZE", { weights: weights.slice(1) }], ["LOAD", { wasm: weights }],
  ["LOAD", { weights: new URL("file:///nothing/here") }], ["LOAD", { wasm: new Response("", { status: 404 }) }], ["LOAD", { wasm: 7 }],
]) {
  await assert.rejects(TinyModel.load(files), (e) => e instanceof EdgekitError && e.status === status, status);
}
assert.deepEqual(entries.map((e) => e.name), ["run", "run_wide", "run_in"]);

const threaded = await Promise.all([TinyModel.load({ threads: 2 }), TinyModel.load({ threads: 4, wasm, weights })]);
assert.deepEqual([model, ...threaded, await TinyModel.load({ threads: 2, wasm: module })].map((m) => m.threads), [1, 2, 4, 1]);
const wide = new Float32Array(64 * 256), wanted = wide.map((_, i) => (i % 4 + 1));
for (let k = 0; k < 300; k++) { // workers look for work, and every now and then are asleep
  wide.fill(k);
  const want = wanted.map((w) => w * k);
  for (const m of threaded) assert.deepEqual(m.run_wide({ x: wide }), { y: want });
  if (k % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
}
model.reset();
assert.deepEqual(threaded[1].run(given), model.run(given));
threaded[0].close();
assert.equal(threaded[0].threads, 1);
assert.deepEqual(threaded[0].run_wide({ x: wide }), { y: wanted.map((w) => w * 299) }, "calls go on in one thread");
for (const threads of [0, 1.5, 257, "2"]) await assert.rejects(TinyModel.load({ threads }), (e) => e.status === "LOAD");
console.log("done");
"""


@needs_node
def test_as_an_app_uses_it(packed, tmp_path):
    """Installed like `npm install` does, imported by name."""
    modules = tmp_path / "app" / "node_modules"
    modules.mkdir(parents=True)
    shutil.copytree(packed, modules / "edgekit-tiny")
    (tmp_path / "app" / "app.mjs").write_text(SCRIPT)
    done = node("app.mjs", cwd=tmp_path / "app")
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_package_json(hostile, tmp_path):
    pack(hostile, "npm", tmp_path / "packed")
    package = json.loads((tmp_path / "packed" / "package.json").read_text())
    assert package["name"] == "edgekit-e_vil_script_touch_pwned_name" and package["private"] is True
    assert package["scripts"] == {"test": "node test.mjs"} and "license" not in package
    for place in package["exports"].values():
        for path in place.values() if isinstance(place, dict) else [place]:
            assert (tmp_path / "packed" / path).is_file()


def test_types_name_every_entry(packed):
    types = (packed / "index.d.ts").read_text()
    assert "  run(inputs: { x: Float32Array; count: BigInt64Array; flag: Uint8Array; }): " \
           "{ y: Float32Array; total: BigInt64Array; flags: Uint8Array; };\n" in types
    assert "  run_in(inputs: { x: Float32Array; }): { x_2: Float32Array; };\n" in types


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium here")
@pytest.mark.parametrize("right, isolated", [(True, True), (True, False), (False, True)])
def test_in_a_browser(hostile, tmp_path, right, isolated):
    """With two threads where the page is cross-origin isolated; where it is not, the same in one."""
    folder = tmp_path / "packed"
    pack(hostile, "npm", folder)
    if not right:
        vectors = folder / "vectors" / "run.bin"
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"\2")
    page = folder / "index.html"
    page.write_text(page.read_text().replace("</h1>", '</h1><img src="late.png">'))
    read = threading.Semaphore(0)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/late.png":  # a page is dumped once it is loaded: not before its workers have started and worked
                for _ in (folder / "vectors").iterdir():
                    read.acquire(timeout=30)
                time.sleep(1)
            super().do_GET()
            if self.path.startswith("/vectors/"):
                read.release()

        def end_headers(self):
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
                       "--virtual-time-budget=20000", "--dump-dom", f"http://127.0.0.1:{server.server_port}/index.html?threads=2"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        finally:
            server.shutdown()
    assert f'<strong id="verdict">{"all right" if right else "WRONG"}</strong>' in done.stdout, done.stdout + done.stderr
    assert f'<span id="threads">{2 if isolated else 1}</span>' in done.stdout

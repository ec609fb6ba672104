// The runtimes for WebAssembly behind one function each: (env, model, inputs) -> { call, outputs }, one thread.
//
// env: what Node and a page do differently. npm: URL of node_modules. bytes(url): its content. script(url): runs a classic script.
// model: URL of what the runtime loads. inputs: [{ name, shape, data: Float32Array }], in order.
// call() makes one inference, outputs() gives what it left as [Float32Array].

async function edgekit(env, model, inputs) {
  const module = await import(`${model}/index.js`);
  const Model = Object.values(module).find((v) => typeof v?.load === "function");
  const net = await Model.load();
  const given = Object.fromEntries(inputs.map((x) => [x.name, x.data]));
  const entry = module.entries[0].name;
  let result;
  return { call: () => { result = net[entry](given); }, outputs: () => Object.values(result) };
}

async function onnxruntime(env, model, inputs) {
  const ort = await import(`${env.npm}/onnxruntime-web/dist/ort.wasm.min.mjs`);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = `${env.npm}/onnxruntime-web/dist/`;
  const session = await ort.InferenceSession.create(await env.bytes(model), { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  const given = Object.fromEntries(inputs.map((x) => [x.name, new ort.Tensor("float32", x.data, x.shape)]));
  let result;
  return { call: async () => { result = await session.run(given); }, outputs: () => session.outputNames.map((n) => result[n].data) };
}

async function litert(env, model, inputs) {
  const { loadLiteRt, loadAndCompile, Tensor } = await import(`${env.npm}/@litertjs/core/dist/index.js`);
  await loadLiteRt(`${env.npm}/@litertjs/core/wasm/`); // takes its build for relaxed SIMD where the engine has it
  const net = await loadAndCompile(await env.bytes(model), { accelerator: "wasm", cpuOptions: { numThreads: 1 } });
  const order = net.getInputDetails().map((d, i) => ({ at: i, number: Number(/\d+/.exec(d.name)?.[0] ?? 0) })).sort((a, b) => a.number - b.number);
  const given = [];
  order.forEach(({ at }, k) => { given[at] = new Tensor(inputs[k].data, inputs[k].shape); });
  let result = [];
  return {
    call: async () => {
      const before = result;
      result = await net.run(given);
      before.forEach((t) => t.delete());
    },
    outputs: () => result.map((t) => t.toTypedArray()),
  };
}

// An ONNX network of convolutions as a list of steps (benchmarks/web.py), in tfjs's fused operations and its own layout.
async function tfjs(env, model, inputs) {
  const tf = await env.tfjs();
  const { steps, output } = JSON.parse(new TextDecoder().decode(await env.bytes(`${model}/steps.json`)));
  const numbers = new Float32Array((await env.bytes(`${model}/weights.bin`)).slice().buffer);
  const weight = (w) => w && tf.keep(tf.tensor(numbers.slice(w.at, w.at + w.shape.reduce((a, b) => a * b, 1)), w.shape));
  const ready = steps.map((s) => ({ ...s, w: weight(s.weight), b: weight(s.bias) }));
  const [x] = inputs;
  const image = tf.keep(tf.tidy(() => tf.transpose(tf.tensor(x.data, x.shape), [0, 2, 3, 1])));
  const run = {
    conv: (s, [v]) => tf.fused.conv2d({ x: v, filter: s.w, strides: s.stride, pad: s.pad, bias: s.b, activation: s.activation }),
    depthwise: (s, [v]) => tf.fused.depthwiseConv2d({ x: v, filter: s.w, strides: s.stride, pad: s.pad, bias: s.b, activation: s.activation }),
    add: (s, [a, b]) => tf.add(a, b),
    pool: (s, [v]) => tf.mean(v, [1, 2]),
    linear: (s, [v]) => tf.fused.matMul({ a: v, b: s.w, bias: s.b }),
  };
  let result;
  return {
    call: () => {
      result = tf.tidy(() => {
        const values = { [x.name]: image };
        for (const s of ready) values[s.to] = run[s.op](s, s.from.map((n) => values[n]));
        return values[output].dataSync();
      });
    },
    outputs: () => [result],
  };
}

const BLOCK_MS = 5;
const runtimes = { edgekit, onnxruntime, litert, tfjs };

/** Answers { do: "load" | "run" | "time", ... } as worker.py does; outputs are base64 of float32. */
export function server(env, name) {
  let model, block = 1;
  return async (request) => {
    if (request.do === "load") {
      const start = performance.now();
      const inputs = await Promise.all(request.inputs.map(async (x) => ({ ...x, data: new Float32Array((await env.bytes(x.file)).slice().buffer) })));
      model = await runtimes[name](env, request.model, inputs);
      const loaded = performance.now();
      await model.call();
      const end = performance.now(); // in a page: since its navigation began
      return { seconds: (end - start) / 1e3, first: (end - loaded) / 1e3, page: end / 1e3 };
    }
    if (request.do === "run") {
      await model.call();
      return { outputs: (await model.outputs()).map(base64) };
    }
    await model.call(); // caches hold what the one before me left
    const seconds = [];
    for (let done = 0; done < request.calls;) { // a page's clock is coarse: short calls are timed in blocks
      const start = performance.now();
      for (let i = 0; i < block; i++) {
        const waiting = model.call();
        if (waiting) await waiting;
      }
      const took = performance.now() - start;
      if (took < BLOCK_MS && block < 1 << 16) {
        block *= 2;
        continue;
      }
      seconds.push(took / block / 1e3);
      done += block;
    }
    return { seconds };
  };
}

function base64(array) {
  const bytes = new Uint8Array(Float32Array.from(array).buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

// Runs the graph beside the page, so that the page stays responsive. One question after another.

import * as ort from "./runtime/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
const session = ort.InferenceSession.create(new URL("./model.onnx", import.meta.url).href, { graphOptimizationLevel: "all" });
session.then(() => postMessage({ ready: true }), (error) => postMessage({ broken: String(error.message || error) }));

const ids = (values) => BigInt64Array.from(values, BigInt);

onmessage = async ({ data }) => {
  const { ticket, image, shape, batch, target, rivals, gamma } = data;
  try {
    const count = batch || 1;
    const row = rivals.length ? rivals : [-1];
    const repeated = (values) => Array.from({ length: count }, () => values).flat();
    const feeds = {
      image: new ort.Tensor("float32", image, [count, 3, ...shape]),
      target: new ort.Tensor("int64", ids(repeated([target])), [count]),
      rivals: new ort.Tensor("int64", ids(repeated(row)), [count, row.length]),
      gamma: new ort.Tensor("float32", new Float32Array(count).fill(gamma), [count]),
    };
    const found = await (await session).run(feeds);
    const outputs = Object.fromEntries(Object.entries(found).map(([name, { data, dims }]) => [name, { data, dims }]));
    postMessage({ ticket, outputs });
  } catch (error) {
    postMessage({ ticket, failed: String(error.message || error) });
  }
};

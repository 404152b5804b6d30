// The conv arithmetic of the package: only whole windows count.
export const numFrames = (samples, layers) =>
  layers.reduce((length, [kernel, stride]) => Math.floor((length - kernel) / stride) + 1, samples);

export const windowSamples = (layers) => layers.reduceRight((window, [kernel, stride]) => (window - 1) * stride + kernel, 1);

export const hopSamples = (layers) => layers.reduce((hop, [, stride]) => hop * stride, 1);

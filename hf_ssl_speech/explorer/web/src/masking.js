// Spans as the package draws them in training; the random numbers are this page's own.
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function drawSpans(frames, { share, length, minSpans }, random) {
  if (frames <= length) return new Array(frames).fill(false);
  const room = frames - length + 1;
  const wanted = Math.max(Math.floor((share * frames) / length + random()), minSpans);
  let starts = shuffled(room, random).slice(0, wanted);
  let mask = cover(frames, starts, length);
  while (mask.every(Boolean)) {
    starts = starts.slice(0, -1); // at least one frame stays visible
    mask = cover(frames, starts, length);
  }
  return mask;
}

function shuffled(count, random) {
  const places = Array.from({ length: count }, (_, place) => place);
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [places[last], places[other]] = [places[other], places[last]];
  }
  return places;
}

function cover(frames, starts, length) {
  const mask = new Array(frames).fill(false);
  for (const start of starts) mask.fill(true, start, start + length);
  return mask;
}

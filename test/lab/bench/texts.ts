/** What the senders say: short chat lines, the same for everyone from the same seed. */

const TEXTS = 509;
const WORDS =
  "so the ferry leaves at nine then we should bring coffee and maybe some bread for everyone on board today".split(
    " ",
  );

/** 16 to 96 characters each. */
export function makeTexts(seed: number): string[] {
  const next = mulberry32(seed);
  return Array.from({ length: TEXTS }, () => {
    const length = 16 + Math.floor(next() * 81);
    let text = "";
    while (text.length < length) text += `${WORDS[Math.floor(next() * WORDS.length)]} `;
    return text.slice(0, length).replace(/ $/, ".");
  });
}

/** Tommy Ettinger's 32-bit generator: numbers from 0 to 1, the same for the same seed. */
function mulberry32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

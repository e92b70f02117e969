/**
 * Ticks of the event loop, counted. Bun reads on from one socket as long as there is more, all in one tick: what one
 * connection may bring in a tick is what the others wait for.
 */

let tick = 0;
let isEndAwaited = false;

function end() {
  isEndAwaited = false;
  tick += 1;
}

/** A number that is the same all through this tick, and another one in the next in which it is asked for. */
export function currentTick(): number {
  if (!isEndAwaited) {
    isEndAwaited = true;
    setImmediate(end);
  }
  return tick;
}

/** Lets the event loop go on to whatever else is due, and resolves after it. */
export const nextTick = () => new Promise<void>((resume) => setImmediate(resume));

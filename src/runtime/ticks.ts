/**
 * Turns of the event loop, counted. Bun reads on from one socket as long as there is more, all in one turn: what one
 * connection may bring in a turn is what the others wait for.
 */

let turn = 0;
let isEndAwaited = false;

function end() {
  isEndAwaited = false;
  turn += 1;
}

/** A number that is the same all through this turn, and another one in the next in which it is asked for. */
export function currentTurn(): number {
  if (!isEndAwaited) {
    isEndAwaited = true;
    setImmediate(end);
  }
  return turn;
}

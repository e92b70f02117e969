/** The terminal that the program was started on. */

import { isatty } from "node:tty";

const STDIN = 0;
const STDOUT = 1;

/** Whether there is one. It is asked at the start: a terminal that has gone away no longer says that it was one. */
export const hasTerminal = (): boolean => isatty(STDIN) || isatty(STDOUT);

/** Of the messages of a room one in some thousand is looked into in full: what was sent, what was told to its sender, what came. */

export interface Delivered {
  readonly room: string;
  readonly seq: number;
  /** None where the server gives none. */
  readonly id: string | undefined;
  readonly sender: string;
  readonly text: string;
}

/** What the answer to a send says, beside what had been sent. */
export type Acked = Delivered;

export interface Samples {
  readonly delivered: readonly Delivered[];
  readonly acked: readonly Acked[];
}

/** A prime, so that it falls on another sender and another text each time. */
const EVERY = 4_093;

/** @param index of the message in its room, from 0 on */
export const isSampled = (index: number): boolean => index % EVERY === 0;

const keyOf = ({ room, seq }: Delivered) => `${seq} ${room}`;
const isSame = (one: Delivered, other: Delivered) =>
  one.room === other.room &&
  one.seq === other.seq &&
  one.id === other.id &&
  one.sender === other.sender &&
  one.text === other.text;

/** Keeps one of each message, and says of the others whether they are the same. */
export function createSamples() {
  const delivered = new Map<string, Delivered>();
  const acked: Acked[] = [];
  return {
    /** Whether it is what another member got under that number, if one did. */
    deliver(message: Delivered): boolean {
      const known = delivered.get(keyOf(message));
      if (known === undefined) delivered.set(keyOf(message), message);
      return known === undefined || isSame(known, message);
    },
    ack(message: Acked) {
      acked.push(message);
    },
    all: (): Samples => ({ delivered: [...delivered.values()], acked }),
  };
}

/**
 * How many did not come as they were sent, or under another number or id than their ack's. All that is acked must have come,
 * and all that came be acked.
 */
export function differing(acked: readonly Acked[], delivered: readonly Delivered[]): number {
  const told = new Map(acked.map((message) => [keyOf(message), message]));
  const came = new Map(delivered.map((message) => [keyOf(message), message]));
  return [...new Set([...told.keys(), ...came.keys()])].filter((key) => {
    const [sent, found] = [told.get(key), came.get(key)];
    return sent === undefined || found === undefined || !isSame(sent, found);
  }).length;
}

import { describe, expect, test } from "bun:test";
import { createBook, numbered } from "./book.ts";

const told = (seq: number, message = `text ${seq}`) => ({ room: "r", seq, id: `id-${message}`, message });

describe("createBook", () => {
  test("finds nothing in a history that holds what was acked and seen", () => {
    const book = createBook();
    const history = [1, 2, 3].map((seq) => told(seq, numbered("ana", 0, seq, "hello")));
    for (const one of history) {
      book.acked(one);
      book.seen(one, "live");
    }
    book.refused("never");
    book.close("r", history);
    expect(book.faults).toEqual([]);
    expect(book.counts).toEqual({ acked: 3, seen: 3, refused: 1 });
  });

  test("lets what was said again stand behind what was said after it", () => {
    const book = createBook();
    const late = numbered("ana", 0, 1, "a");
    book.saidAgain(late);
    book.close("r", [
      told(1, numbered("ana", 0, 2, "b")),
      told(2, late),
      told(3, numbered("ana", 0, 3, "c")),
    ]);
    expect(book.faults).toEqual([]);
  });

  const wrong: [string, () => readonly string[]][] = [
    [
      "an acked message that is lost",
      () => {
        const book = createBook();
        book.acked(told(2));
        book.close("r", [told(1)]);
        return book.faults;
      },
    ],
    [
      "a message that was seen and then unsaid",
      () => {
        const book = createBook();
        book.seen(told(2), "live");
        book.close("r", [told(1)]);
        return book.faults;
      },
    ],
    [
      "two messages at one place",
      () => {
        const book = createBook();
        book.seen(told(1, "a"), "live");
        book.seen(told(1, "b"), "replay");
        return book.faults;
      },
    ],
    [
      "a hole",
      () => {
        const book = createBook();
        book.close("r", [told(1), told(3)]);
        return book.faults;
      },
    ],
    [
      "a send that is stored twice",
      () => {
        const book = createBook();
        book.close("r", [told(1, "same"), { ...told(2, "same"), id: "another" }]);
        return book.faults;
      },
    ],
    [
      "a sender whose order was changed",
      () => {
        const book = createBook();
        book.close("r", [told(1, numbered("ana", 0, 2, "b")), told(2, numbered("ana", 0, 1, "a"))]);
        return book.faults;
      },
    ],
    [
      "a refused message that is stored",
      () => {
        const book = createBook();
        book.refused("no");
        book.close("r", [told(1, "no")]);
        return book.faults;
      },
    ],
    [
      "a refused message that is shown",
      () => {
        const book = createBook();
        book.refused("no");
        book.seen(told(1, "no"), "live");
        return book.faults;
      },
    ],
  ];
  for (const [what, faults] of wrong) {
    test(`catches ${what}`, () => expect(faults()).toHaveLength(1));
  }
});

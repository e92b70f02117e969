/** Sets of nearly always one member or none, which then cost no Set: there is one for each connection, and for each room. */

/** A set that nearly always has one member or none. */
export interface Few<T> extends Iterable<T> {
  readonly size: number;
  has(value: T): boolean;
  add(value: T): void;
  delete(value: T): boolean;
}

// A class for its prototype: there is one for each connection, and closures would cost each of them memory.
class FewOrMany<T extends {}> implements Few<T> {
  #only: T | undefined = undefined;
  /** All of them, where there are two or more. */
  #all: Set<T> | undefined = undefined;

  get size() {
    return this.#all?.size ?? (this.#only === undefined ? 0 : 1);
  }

  has(value: T) {
    return this.#all?.has(value) ?? this.#only === value;
  }

  add(value: T) {
    if (this.has(value)) return;
    if (this.size === 0) {
      this.#only = value;
      return;
    }
    this.#all ??= new Set(this);
    this.#only = undefined;
    this.#all.add(value);
  }

  delete(value: T) {
    if (this.#all !== undefined) {
      const had = this.#all.delete(value);
      if (this.#all.size === 1) {
        [this.#only] = this.#all;
        this.#all = undefined;
      }
      return had;
    }
    const had = this.#only === value;
    if (had) this.#only = undefined;
    return had;
  }

  /** As they are now: elements may be deleted while they are walked. */
  [Symbol.iterator]() {
    return [...(this.#all ?? (this.#only === undefined ? [] : [this.#only]))].values();
  }
}

export const createFew = <T extends {}>(): Few<T> => new FewOrMany();

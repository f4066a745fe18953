// The conversation, its requests to the server, and its export for `mossvl run`.

import { answer } from "./api.js";

/** A question with its answer. State: "waiting", "streaming", "done", "stopped" or "failed". */
class Turn {
  constructor(question) {
    this.question = question;
    this.media = []; // media that come before this question
    this.reset();
  }

  reset() {
    Object.assign(this, { text: "", state: "waiting", error: null, finish: null, usage: null, timings: null });
  }

  get running() {
    return this.state === "waiting" || this.state === "streaming";
  }

  /** Whether later requests include this turn. */
  get counts() {
    return this.state === "done" || (this.state === "stopped" && this.text !== "");
  }
}

/**
 * Emits "change" with the changed turn as detail, or null if turns were added or removed; and "unsent" with a question
 * as detail that was withdrawn because none of the media can be used.
 *
 * `connect` fetches the served model.
 */
export class Conversation extends EventTarget {
  constructor(media, settings, connect) {
    super();
    Object.assign(this, { media, settings, connect });
    this.model = "";
    this.turns = [];
    this.work = null;
  }

  get running() {
    return this.turns.some((turn) => turn.running);
  }

  /** Ask a question about the media, as the next turn. */
  ask(question) {
    const turn = new Turn(question);
    this.turns.push(turn);
    return this.#run(turn);
  }

  /** Ask a failed question again, as the last turn. */
  retry(turn) {
    this.turns = [...this.turns.filter((one) => one !== turn), turn];
    turn.reset();
    turn.media = [];
    return this.#run(turn);
  }

  /** Remove a failed question. */
  remove(turn) {
    this.turns = this.turns.filter((one) => one !== turn);
    this.#changed(null);
  }

  /** Stop the running answer; its text so far stays. */
  stop() {
    this.work?.abort();
  }

  /** Start a new conversation about the same media. */
  clear() {
    this.stop();
    this.turns = [];
    this.media.free(this.media.all);
    this.#changed(null);
  }

  /** Return turns and media for `restore`. */
  saved() {
    const { all, current } = this.media;
    const of = new Map(all.map(({ fixed, seen, lookedWith }, place) => [all[place], { fixed, seen, lookedWith }]));
    return { turns: this.turns, all: [...all], current, of };
  }

  restore({ turns, all, current, of }) {
    this.stop();
    this.turns = turns;
    const asked = new Set(turns.filter((turn) => turn.counts).flatMap((turn) => turn.media));
    for (const medium of all) {
      if (!asked.has(medium)) continue;
      medium.looking.abort(); // its options may have changed since
      Object.assign(medium, of.get(medium));
    }
    this.media.replace(all, current);
    this.#changed(null);
  }

  /** Return the request for the next answer. */
  request() {
    const { temperature, tokens } = this.settings;
    return { model: this.model, messages: this.#messages(), temperature, max_completion_tokens: tokens };
  }

  /** Return the conversation as a query of `mossvl run`: media by file name, answers included. */
  exported() {
    const { temperature, tokens } = this.settings;
    const drawn = temperature > 0 ? { do_sample: true, temperature } : {};
    const messages = this.#messages((medium) => medium.exported(medium.fixed));
    return { messages, generate_kwargs: { max_new_tokens: tokens, ...drawn } };
  }

  #messages(part = (medium) => medium.part(this.media.options(medium))) {
    const { system } = this.settings;
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const turn of this.turns) {
      if (!turn.counts && !turn.running) continue;
      const content = [...turn.media.map(part), { type: "text", text: turn.question }];
      messages.push({ role: "user", content });
      if (turn.counts) messages.push({ role: "assistant", content: turn.text });
    }
    return messages;
  }

  async #run(turn) {
    const { signal } = (this.work = new AbortController());
    this.#changed(turn);
    try {
      await unlessAborted(this.#ready(), signal);
      if (!this.#take(turn)) return;
      await this.#listen(turn, signal);
      turn.state = "done";
    } catch (error) {
      turn.state = error.name === "AbortError" ? "stopped" : "failed";
      turn.error = turn.state === "failed" ? error : null;
    }
    if (!this.turns.includes(turn)) return; // a new conversation was started
    if (!turn.counts) this.media.free(turn.media); // the next question brings the media instead
    this.#changed(turn);
  }

  /** Attach usable media to a turn; if there are media but none is usable, withdraw the question and return false. */
  #take(turn) {
    const { all } = this.media;
    if (all.length && !all.some((medium) => medium.usable)) {
      this.remove(turn);
      this.dispatchEvent(new CustomEvent("unsent", { detail: turn.question }));
      return false;
    }
    turn.media = all.filter((medium) => medium.usable && !medium.asked);
    for (const medium of turn.media) this.media.fix(medium);
    this.media.changed();
    this.#changed(turn);
    return true;
  }

  /** Read the answer; if uploads have expired on the server, upload the files again first. */
  async #listen(turn, signal, again = true) {
    try {
      for await (const chunk of answer(this.request(), signal)) {
        const choice = chunk.choices[0];
        turn.state = "streaming";
        turn.text += choice?.delta?.content ?? "";
        turn.finish = choice?.finish_reason ?? turn.finish;
        turn.usage = chunk.usage ?? turn.usage;
        turn.timings = chunk.mossvl?.timings ?? turn.timings;
        this.#changed(turn);
      }
    } catch (error) {
      const uploads = this.media.all.filter((medium) => medium.file && medium.asked);
      if (error.status !== 404 || !uploads.length || !again) throw error;
      await Promise.all(uploads.map((medium) => this.media.loadAgain(medium)));
      const lost = uploads.find((medium) => medium.error);
      if (lost) throw lost.error;
      await this.#listen(turn, signal, false);
    }
  }

  /** Wait until the model is known and all media are loaded or have failed. */
  async #ready() {
    if (!this.model) await this.connect();
    this.media.shared();
    while (this.media.all.some((medium) => medium.busy)) {
      await Promise.all(this.media.all.map((medium) => medium.settled));
    }
  }

  #changed(turn) {
    this.dispatchEvent(new CustomEvent("change", { detail: turn }));
  }
}

/** Await a promise, or throw the signal's reason on abort. */
function unlessAborted(promise, signal) {
  const givenUp = new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });
  return Promise.race([promise, givenUp]);
}

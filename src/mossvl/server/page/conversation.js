// Questions and answers, and what of them the server and `mossvl run` are given.

import { answer, ApiError } from "./api.js";

/** A question with its answer. State: "waiting", "streaming", "done", "stopped" or "failed". */
class Turn {
  constructor(question) {
    this.question = question;
    this.media = []; // those that stand before this question
    this.reset();
  }

  reset() {
    Object.assign(this, { text: "", state: "waiting", error: null, finish: null, usage: null, timings: null });
  }

  get running() {
    return this.state === "waiting" || this.state === "streaming";
  }

  /** The model is reminded of it with the next question. */
  get counts() {
    return this.state === "done" || (this.state === "stopped" && this.text !== "");
  }
}

/** Emits "change" with the turn that has changed as its detail; null if all of them have. */
export class Conversation extends EventTarget {
  constructor(media, settings) {
    super();
    Object.assign(this, { media, settings });
    this.model = "";
    this.turns = [];
    this.work = null;
  }

  get running() {
    return this.turns.some((turn) => turn.running);
  }

  /** Ask about the media, after what was asked before. */
  ask(question) {
    const turn = new Turn(question);
    this.turns.push(turn);
    return this.#run(turn);
  }

  /** Ask a question once more that has failed. */
  retry(turn) {
    turn.reset();
    return this.#run(turn);
  }

  /** End the answer that comes; its text so far stays. */
  stop() {
    this.work?.abort();
  }

  /** Begin anew, with the same media. */
  clear() {
    this.stop();
    this.turns = [];
    for (const medium of this.media.all) medium.asked = false;
    this.media.changed();
    this.#changed(null);
  }

  /** What the server is asked. */
  request() {
    const { temperature, tokens } = this.settings;
    return { model: this.model, messages: this.#messages(), temperature, max_completion_tokens: tokens };
  }

  /** The conversation as `mossvl run` takes it: media by the names of their files, answers included. */
  exported() {
    const { temperature, tokens } = this.settings;
    const { options } = this.media;
    const sampling = { video_fps: options.fps, max_frames: options.max_frames, max_pixels: options.max_pixels };
    const part = (medium) =>
      medium.kind === "video"
        ? { type: "video", video: medium.url ?? medium.name, ...sampling }
        : { type: "image", image: medium.url ?? medium.name, max_pixels: options.max_pixels };
    const drawn = temperature > 0 ? { do_sample: true, temperature } : {};
    return { messages: this.#messages(part), generate_kwargs: { max_new_tokens: tokens, ...drawn } };
  }

  #messages(part = (medium) => medium.part(this.media.options)) {
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
    turn.media = this.media.all.filter((medium) => !medium.asked);
    for (const medium of turn.media) medium.asked = true;
    this.media.changed();
    this.#changed(turn);
    try {
      await this.#mediaReady(signal);
      await this.#listen(turn, signal);
      turn.state = "done";
    } catch (error) {
      turn.state = error.name === "AbortError" ? "stopped" : "failed";
      turn.error = turn.state === "failed" ? error : null;
    }
    if (!this.turns.includes(turn)) return; // a new conversation has begun
    if (!turn.counts) {
      for (const medium of turn.media) medium.asked = false; // they come with the next question instead
      this.media.changed();
    }
    this.#changed(turn);
  }

  /** Read the answer; uploads that the server has forgotten meanwhile are made again. */
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
      const uploads = this.media.all.filter((medium) => medium.file);
      if (error.status !== 404 || !uploads.length || !again) throw error;
      await Promise.all(uploads.map((medium) => this.media.loadAgain(medium)));
      await this.#mediaReady(signal);
      await this.#listen(turn, signal, false);
    }
  }

  async #mediaReady(signal) {
    const givenUp = new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    await Promise.race([Promise.all(this.media.all.map((medium) => medium.settled)), givenUp]);
    const broken = this.media.all.find((medium) => medium.error);
    if (broken) throw new ApiError(`${broken.name} cannot be used. Try it again, or remove it.`);
  }

  #changed(turn) {
    this.dispatchEvent(new CustomEvent("change", { detail: turn }));
  }
}

// The pictures and videos of the conversation: uploaded once, looked at through the server, asked about by name.

import { ApiError, frames, removeFile, upload } from "./api.js";
import { bytes } from "./dom.js";
import { Medium } from "./medium.js";

const PICTURE_NAMES = /\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic)$/i;
const VIDEO_NAMES = /\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|ts|wmv|flv|ogv|3gp)$/i;
const THUMBNAIL = 128;
const PICTURE = 512; // of an image by URL, which the page itself may not load

/** All media, one of which is shown. Emits "change". */
export class Media extends EventTarget {
  constructor() {
    super();
    this.defaults = {}; // how media are sampled about which nothing else was said
    this.budget = Infinity; // frames for which the model's pixels suffice
    this.all = [];
    this.current = null;
    this.caps = { max_media: Infinity, max_upload_bytes: Infinity, max_frames: Infinity };
  }

  /** How a medium is sampled: all videos together may have as many frames as the server allows. */
  options(medium) {
    const own = { ...this.defaults, ...(medium.fixed ?? medium.wanted) };
    if (medium.kind !== "video") return own;
    const videos = this.all.filter((one) => one.kind === "video" && one.usable);
    if (medium.asked) return videos.length > 1 ? { ...own, max_frames: needed(medium) } : own;
    const taken = videos.reduce((sum, one) => sum + (one.asked ? needed(one) : 0), 0);
    const sharing = new Set([medium, ...videos.filter((one) => !one.asked)]).size;
    const part = Math.max(1, Math.floor((this.caps.max_frames - taken) / sharing));
    return { ...own, max_frames: Math.min(own.max_frames ?? part, part) };
  }

  /** From now on a medium is sampled as it is, until it belongs to no question any more. */
  fix(medium) {
    medium.fixed = this.options(medium);
  }

  /** Media belong to no question any more. */
  free(media) {
    for (const medium of media) medium.fixed = null;
    this.shared();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Media have come or gone: those that have other options now are looked at again. */
  shared() {
    this.changed();
    for (const medium of this.all) {
      const open = medium.ready && !medium.asked && !medium.busy;
      if (open && medium.lookedWith !== JSON.stringify(this.options(medium))) this.load(medium);
    }
  }

  /**
   * Add a file, and upload it.
   *
   * Throws an ApiError if there is no room for it.
   */
  addFile(file, sample = null) {
    this.#checkRoom();
    if (file.size > this.caps.max_upload_bytes) {
      const [size, most] = [file.size, this.caps.max_upload_bytes].map(bytes);
      throw new ApiError(`${file.name} has ${size}; the server takes files of at most ${most}.`);
    }
    const picture = file.type ? file.type.startsWith("image/") : PICTURE_NAMES.test(file.name);
    const medium = new Medium({ kind: picture ? "image" : "video", name: file.name, file, sample });
    this.#add(medium);
    this.load(medium);
    return medium;
  }

  /** Add what is at a URL, once the server has seen it there; throws an ApiError if it cannot. */
  async addUrl(text) {
    let url;
    try {
      url = new URL(text);
    } catch {
      throw new ApiError("This is no URL. One begins with https:// or http://.");
    }
    if (!/^https?:$/.test(url.protocol)) throw new ApiError("A URL here begins with https:// or http://.");
    this.#checkRoom();
    const name = url.pathname.split("/").pop() || url.hostname;
    let kinds = ["video", "image"]; // where the name does not tell, the server is asked
    if (PICTURE_NAMES.test(name)) kinds = ["image"];
    else if (VIDEO_NAMES.test(name)) kinds = ["video"];
    for (const kind of kinds) {
      const medium = new Medium({ kind, name, url: url.href });
      try {
        await this.#look(medium);
      } catch (error) {
        if (kinds.length === 1 || error.passing) throw error;
        if (kind === kinds[0]) continue;
        throw new ApiError("There is neither a video nor a picture that can be read. Is the URL right?");
      }
      this.#add(medium);
      return medium;
    }
  }

  /** Upload a medium if it was not yet, and look at it; what fails is told beside it. */
  load(medium) {
    medium.settled = this.#load(medium);
    return medium.settled;
  }

  /** Upload a medium once more. */
  loadAgain(medium) {
    medium.id = null;
    return this.load(medium);
  }

  async #load(medium) {
    const work = (medium.work = new AbortController()); // the last one; older ones are given up
    medium.error = null;
    medium.busy = true;
    this.changed();
    try {
      if (medium.file && !medium.id) {
        const told = (part) => {
          medium.progress = part;
          this.changed();
        };
        medium.id = await upload(medium.file, told, work.signal);
      }
      await this.#look(medium);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404) medium.id = null; // forgotten by the server: to be uploaded again
      medium.error = error;
      const other = this.all.findLast((one) => one !== medium && one.usable);
      if (this.current === medium && !medium.seen && other) this.current = other;
    } finally {
      if (medium.work === work) {
        medium.busy = false;
        this.shared();
      }
    }
  }

  /** Look again at a medium, if the server has it already. */
  lookAgain(medium) {
    if (medium.id || medium.url) this.load(medium);
  }

  /** Ask what the model will see; an older question about the same medium is given up. */
  async #look(medium) {
    medium.looking.abort();
    medium.looking = new AbortController();
    const remote = medium.kind === "image" && !medium.file;
    const options = this.options(medium);
    medium.seen = await frames(medium.part(options), remote ? PICTURE : THUMBNAIL, medium.looking.signal);
    medium.lookedWith = JSON.stringify(options);
    if (remote) medium.shown = medium.seen.frames[0].thumbnail;
  }

  show(medium) {
    this.current = medium;
    this.changed();
  }

  remove(medium) {
    const place = this.all.indexOf(medium);
    this.all.splice(place, 1);
    if (this.current === medium) this.current = this.all[Math.min(place, this.all.length - 1)] ?? null;
    forget(medium);
    this.shared();
  }

  /** Have other media instead; those that were there are not forgotten. */
  replace(all, current = null) {
    this.all = [...all];
    this.current = current;
    this.shared();
  }

  #checkRoom() {
    if (this.all.length >= this.caps.max_media) {
      const most = this.caps.max_media;
      const words = most === 1 ? "1 picture or video" : `${most} pictures and videos`;
      throw new ApiError(`The server takes at most ${words} in one conversation.`);
    }
  }

  #add(medium) {
    this.all.push(medium);
    this.current = medium;
    this.shared();
  }
}

/** Forget a medium, here and on the server. */
export function forget(medium) {
  medium.work.abort();
  medium.looking.abort();
  if (medium.file) URL.revokeObjectURL(medium.shown);
  if (medium.id) removeFile(medium.id).catch(() => {}); // it expires there by itself
  medium.id = null;
}

/** So many frames must a video be allowed for what was seen of it to be seen again. */
const needed = ({ fixed, seen }) => Math.min(fixed.max_frames ?? Infinity, seen?.frames.length ?? Infinity);

// Times: labels, and times that an answer mentions.

const NUMBER = String.raw`\d+(?:\.\d+)?`;
const JOINT = String.raw`\s*(?:,\s*and|,\s*or|,|and|or|to|until|-|–|—)\s*`;
const SECONDS = String.raw`${NUMBER}(?:${JOINT}${NUMBER})*\s?(?:seconds?|secs?|s)\b`;
const CLOCK = String.raw`(?:\d{1,2}:)?[0-5]?\d:[0-5]\d(?:\.\d+)?(?![\d:])`;
const FOUND = new RegExp(String.raw`(?<![\d.:])(?:${SECONDS}|${CLOCK})`, "gi");
const LENGTH = /\b(?:for|lasts?|lasting|takes?|every|within|length of)\s+(?:about |around |approximately )?$/i;

/**
 * Split a text into runs, {text} or {text, time}: times in seconds within a video's duration.
 *
 * Recognised are "3.0 seconds", "3 s", "between 2.0 and 4.0 seconds", "0:03" and "1:02:03"; a length ("for 2 seconds",
 * "2 seconds long") is no time.
 */
export function pieces(text, duration) {
  const found = [];
  let end = 0;
  const add = (start, stop, time) => {
    if (!(time <= duration + 0.05)) return;
    if (start > end) found.push({ text: text.slice(end, start) });
    found.push({ text: text.slice(start, stop), time });
    end = stop;
  };
  for (const match of text.matchAll(FOUND)) {
    const [whole] = match;
    const stop = match.index + whole.length;
    if (whole.includes(":")) add(match.index, stop, fromClock(whole));
    else if (!LENGTH.test(text.slice(0, match.index)) && !/^[\s-]+long\b/.test(text.slice(stop))) {
      const numbers = [...whole.matchAll(new RegExp(NUMBER, "g"))];
      numbers.forEach((number, place) => {
        const start = match.index + number.index;
        add(start, place === numbers.length - 1 ? stop : start + number[0].length, Number(number[0]));
      });
    }
  }
  if (end < text.length) found.push({ text: text.slice(end) });
  return found;
}

/** Questions whose answers are durations, not times. */
export const asksLength = (question) => /\bhow (?:long|much time|many (?:seconds|minutes))\b/i.test(question);

/** "1:02:03" → 3723. */
const fromClock = (text) => text.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);

/** Format a time: "2.0 s", "1:02.5", "1:02:03.0". */
export function label(seconds, decimals = 1) {
  const scale = 10 ** decimals;
  const units = Math.round(seconds * scale);
  if (units < 60 * scale) return `${(units / scale).toFixed(decimals)} s`;
  const [hours, minutes] = [Math.floor(units / (3600 * scale)), Math.floor(units / (60 * scale)) % 60];
  const rest = (units % (60 * scale)) / scale;
  const clock = `${minutes}:${rest.toFixed(decimals).padStart(decimals + 3, "0")}`;
  return hours ? `${hours}:${clock.padStart(decimals + 6, "0")}` : clock;
}

/** Format ascending times, with as many decimals as make them distinct. */
export function labels(times) {
  for (let decimals = 1; ; decimals++) {
    const all = times.map((time) => label(time, decimals));
    if (decimals === 3 || new Set(all).size === all.length) return all;
  }
}

const ROUNDED = 0.05 + 1e-9; // rounding error of a timestamp with one decimal, in seconds

/**
 * Convert a timestamp of the prompt to a time of the player, by frames with ascending `time` and `seek`.
 *
 * A frame's timestamp gives its `seek`; times between two frames are interpolated.
 */
export function playerTime(frames, time) {
  const distance = (frame) => Math.abs(frame.time - time);
  const nearest = frames.reduce((best, frame) => (distance(frame) < distance(best) ? frame : best));
  if (distance(nearest) <= ROUNDED) return nearest.seek;
  const place = Math.max(0, frames.findLastIndex((frame) => frame.time < time));
  const [before, after] = [frames[place], frames[place + 1]];
  const pace = after && time > before.time ? (after.seek - before.seek) / (after.time - before.time) : 1;
  return before.seek + (time - before.time) * pace;
}

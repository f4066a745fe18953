// A subset of Markdown as runs of text: bold, code, headings and bullets. All other text is unchanged.

const MARKS = /\*\*(?=\S)([^\n]+?)(?<=\S)\*\*|`([^`\n]+)`|^#{1,6} +([^\n]+)$|^( *)[*-] +(?=\S)/gm;

/** Split a text → [{text, style}], with style "strong", "code" or null. */
export function runs(text) {
  const found = [];
  let end = 0;
  const add = (run, style) => run && found.push({ text: run, style });
  for (const match of text.matchAll(MARKS)) {
    const [whole, bold, code, heading, indent] = match;
    add(text.slice(end, match.index), null);
    if (indent !== undefined) add(`${indent}• `, null);
    else add(bold ?? code ?? heading.replaceAll("**", ""), code === undefined ? "strong" : "code");
    end = match.index + whole.length;
  }
  add(text.slice(end), null);
  return found;
}

// A model's Markdown as elements. Text only ever becomes text nodes, so nothing in an answer can
// become markup, a script or a request: links are shown with their address and open on a click.

const FENCE = /^(```|~~~)\s*([\w+#.-]*)\s*$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const BULLET = /^(\s*)([-*+]|\d+[.)])\s+(.*)$/;
const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*([^*]+)\*\*|__([^_]+)__|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

export function markdown(text) {
  const fragment = document.createDocumentFragment();
  const lines = text.split("\n");
  let at = 0;
  while (at < lines.length) at = block(lines, at, fragment);
  return fragment;
}

function block(lines, at, into) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence, into);
  if (!line.trim()) return at + 1;
  const heading = HEADING.exec(line);
  if (heading) {
    into.append(element("h3", heading[2]));
    return at + 1;
  }
  if (BULLET.test(line)) return list(lines, at, into);
  if (line.startsWith(">")) return quote(lines, at, into);
  if (line.includes("|") && /^\s*\|?[\s:|-]*-[\s:|-]*$/.test(lines[at + 1] ?? "")) return table(lines, at, into);
  return paragraph(lines, at, into);
}

function fenced(lines, at, fence, into) {
  let end = at + 1;
  while (end < lines.length && !lines[end].startsWith(fence[1])) end += 1;
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  const code = document.createElement("code");
  code.textContent = lines.slice(at + 1, end).join("\n");
  if (fence[2]) code.dataset.language = fence[2];
  pre.append(code);
  into.append(pre);
  return end + 1;
}

function list(lines, at, into) {
  const first = BULLET.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const node = document.createElement(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(first[2], 10);
  let end = at;
  while (end < lines.length) {
    const item = BULLET.exec(lines[end]);
    if (item && item[1].length > first[1].length + 1 && node.lastElementChild) {
      end = list(lines, end, node.lastElementChild);
    } else if (item && item[1].length >= first[1].length && /\d/.test(item[2]) === ordered) {
      node.append(element("li", item[3]));
      end += 1;
    } else if (lines[end].trim() && /^\s+/.test(lines[end]) && !item && node.lastElementChild) {
      node.lastElementChild.append(" ");
      inline(lines[end].trim(), node.lastElementChild);
      end += 1;
    } else break;
  }
  into.append(node);
  return end;
}

function quote(lines, at, into) {
  let end = at;
  while (end < lines.length && lines[end].startsWith(">")) end += 1;
  const node = document.createElement("blockquote");
  node.append(markdown(lines.slice(at, end).map((line) => line.replace(/^>\s?/, "")).join("\n")));
  into.append(node);
  return end;
}

function table(lines, at, into) {
  const node = document.createElement("table");
  let end = at;
  while (end < lines.length && lines[end].includes("|")) {
    if (end !== at + 1) {
      const row = node.insertRow();
      for (const text of lines[end].trim().replace(/^\||\|$/g, "").split("|")) {
        row.append(element(end === at ? "th" : "td", text.trim()));
      }
    }
    end += 1;
  }
  if (!node.rows[0].textContent.trim()) node.deleteRow(0); // a head without words says nothing
  into.append(node);
  return end;
}

function paragraph(lines, at, into) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !FENCE.test(lines[end]) && !HEADING.test(lines[end]) && !BULLET.test(lines[end])) end += 1;
  into.append(element("p", lines.slice(at, end).join("\n")));
  return end;
}

function element(name, text) {
  const node = document.createElement(name);
  inline(text, node);
  return node;
}

function inline(text, into) {
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    plain(text.slice(from, match.index), into);
    from = match.index + match[0].length;
    const [whole, , code, bold, bold2, italic, label, address] = match;
    if (code !== undefined) into.append(textual("code", code));
    else if (bold ?? bold2) into.append(textual("strong", bold ?? bold2));
    else if (italic) into.append(textual("em", italic));
    else if (address) into.append(link(label, address));
    else into.append(whole);
  }
  plain(text.slice(from), into);
}

function plain(text, into) {
  text.split("\n").forEach((line, index) => {
    if (index) into.append(document.createElement("br"));
    into.append(line);
  });
}

function textual(name, text) {
  const node = document.createElement(name);
  node.textContent = text;
  return node;
}

function link(label, address) {
  const node = textual("a", label);
  node.href = address;
  node.rel = "noopener noreferrer nofollow";
  node.target = "_blank";
  node.title = address;
  return node;
}

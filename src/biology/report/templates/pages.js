// Shared by all pages: what a link points at is opened, packed data are read, and elements are made.
"use strict";
const reveal = () => {
  let target = null;
  try { target = document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch { return; }
  if (!target) return;
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", reveal);
addEventListener("DOMContentLoaded", () => location.hash && reveal());
// A figure fits its page; its button makes it as large as its letters want, and then it scrolls.
addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll("button.larger")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const large = button.closest("figure").classList.toggle("large");
      button.setAttribute("aria-pressed", large);
    });
  }
});

// Data that pages.packed has compressed, from the script element with this id.
const unpacked = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};

// The bytes that pages.as_characters wrote as characters of two bytes each; those that no page may hold come behind a mark.
const bytesOf = (letters) => {
  const units = new Uint16Array(letters.length);
  let size = 0;
  for (let i = 0; i < letters.length; i++) {
    const unit = letters.charCodeAt(i);
    units[size++] = unit === 1 ? letters.charCodeAt(++i) ^ 0x8000 : unit;
  }
  return new Uint8Array(units.buffer, 2, 2 * (size - 1) - units[0]);
};

// Facts and bytes that pages.packed_bytes has compressed, from the script element with this id.
const unpackedBytes = async (id) => {
  const stream = new Blob([bytesOf(byId(id).textContent)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  return { facts: JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length))), bytes: bytes.subarray(4 + length) };
};

// Children that are text go in as text, never as markup.
const byId = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const visible = (text) => text.replaceAll("\n", "↵");

// Copying to the clipboard, with a word of success that screen readers hear.

export async function copyText(button, text) {
  const label = button.getAttribute("aria-label") ?? button.textContent;
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = fallbackCopy(text) ? "Copied" : "Press Ctrl+C";
  }
  announce(done);
  const before = button.innerHTML;
  button.textContent = done;
  setTimeout(() => {
    button.innerHTML = before;
    button.setAttribute("aria-label", label);
  }, 1400);
}

function fallbackCopy(text) {
  // Plain http on another machine has no clipboard interface.
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

export function announce(text) {
  let region = document.getElementById("announcer");
  if (!region) {
    region = document.createElement("div");
    region.id = "announcer";
    region.className = "visually-hidden";
    region.setAttribute("aria-live", "polite");
    document.body.append(region);
  }
  region.textContent = text;
}

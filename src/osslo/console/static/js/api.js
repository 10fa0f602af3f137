// Calls to the server's own API from a page, as the person who is signed in.

// With accounts the session's cookie says who calls, and the CSRF header that the page is ours.
// Without accounts the page has a field for the server's key; it is kept for this tab only.

const keyField = document.getElementById("api-key");
const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";

if (keyField) {
  keyField.value = sessionStorage.getItem("osslo-key") ?? "";
  keyField.addEventListener("change", () => sessionStorage.setItem("osslo-key", keyField.value.trim()));
}

function credentials() {
  const key = keyField?.value.trim();
  return key ? { authorization: `Bearer ${key}` } : { "x-csrf-token": csrf };
}

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered ${status}.`);
    this.status = status;
    this.code = error?.code ?? null;
    this.param = error?.param ?? null;
  }
}

export async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const response = await fetch(path, {
    method,
    signal,
    credentials: "same-origin",
    headers: {
      ...credentials(),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...headers,
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Not JSON: a proxy's page, perhaps.
  }
  return new ApiError(response.status, error);
}

export async function getJson(path, options) {
  return (await call(path, options)).json();
}

// Reading the server's OpenAPI document: its operations, and an example for each body.

export function operations(document) {
  const found = [];
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if (!["get", "post", "put", "patch", "delete"].includes(method)) continue;
      found.push({
        id: `${method} ${path}`,
        method: method.toUpperCase(),
        path,
        tag: operation.tags?.[0] ?? "other",
        summary: operation.summary ?? "",
        parameters: (operation.parameters ?? []).map((one) => resolve(document, one)).filter((one) => one.in !== "header"),
        body: bodyOf(document, operation),
      });
    }
  }
  return found;
}

function bodyOf(document, operation) {
  const content = resolve(document, operation.requestBody)?.content;
  if (!content) return null;
  const type = "application/json" in content ? "application/json" : Object.keys(content)[0];
  const media = content[type];
  const named = media.examples && Object.values(media.examples)[0];
  const given = media.example ?? resolve(document, named)?.value;
  return { type, example: given ?? example(document, media.schema, 0) };
}

function resolve(document, node) {
  if (!node?.$ref) return node;
  return node.$ref
    .replace(/^#\//, "")
    .split("/")
    .reduce((at, step) => at?.[step.replaceAll("~1", "/").replaceAll("~0", "~")], document);
}

export function example(document, schema, depth) {
  const node = resolve(document, schema) ?? {};
  if (node.examples?.length) return node.examples[0];
  if (node.example !== undefined) return node.example;
  if (node.const !== undefined) return node.const;
  if (node.default !== undefined && node.default !== null) return node.default;
  if (node.enum) return node.enum[0];
  const choice = (node.anyOf ?? node.oneOf ?? node.allOf)?.find((one) => resolve(document, one)?.type !== "null");
  if (choice) return example(document, choice, depth);
  switch (Array.isArray(node.type) ? node.type.find((one) => one !== "null") : node.type) {
    case "object":
      return objectExample(document, node, depth);
    case "array":
      return depth > 4 ? [] : [example(document, node.items ?? {}, depth + 1)];
    case "integer":
    case "number":
      return node.minimum ?? 1;
    case "boolean":
      return false;
    case "string":
      return "text";
    default:
      return node.properties ? objectExample(document, node, depth) : "text";
  }
}

function objectExample(document, node, depth) {
  if (depth > 4) return {};
  const required = node.required ?? [];
  const shown = Object.entries(node.properties ?? {}).filter(([name]) => required.includes(name));
  return Object.fromEntries(shown.map(([name, schema]) => [name, example(document, schema, depth + 1)]));
}

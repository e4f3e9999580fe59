// Places in the console, as the part of the address behind #.

export type Route =
  | { readonly name: "home" }
  | { readonly name: "patient"; readonly id: string }
  | { readonly name: "alert"; readonly id: string }
  | { readonly name: "unassigned" }
  | { readonly name: "devices" }
  | { readonly name: "device"; readonly id: string }
  | { readonly name: "quarantine" };

export function parseRoute(hash: string): Route {
  const parts = hash.replace(/^#?\/?/, "").split("/");
  const id = decode(parts[1] ?? "");
  if (parts[0] === "patients" && id !== "") return { name: "patient", id };
  if (parts[0] === "alerts" && id !== "") return { name: "alert", id };
  if (parts[0] === "unassigned") return { name: "unassigned" };
  if (parts[0] === "devices") return id !== "" ? { name: "device", id } : { name: "devices" };
  if (parts[0] === "quarantine") return { name: "quarantine" };
  return { name: "home" };
}

export const to = {
  home: "#/",
  patient: (id: string): string => `#/patients/${encodeURIComponent(id)}`,
  alert: (id: string): string => `#/alerts/${encodeURIComponent(id)}`,
  unassigned: "#/unassigned",
  devices: "#/devices",
  device: (id: string): string => `#/devices/${encodeURIComponent(id)}`,
  quarantine: "#/quarantine",
};

function decode(s: string): string {
  try { return decodeURIComponent(s); } catch { return ""; }
}

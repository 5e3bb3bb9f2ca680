// Light or dark: as the system has it, or as a person chose for this browser.

const KEY = "nearfar-theme";

export const current = () => localStorage.getItem(KEY) ?? "auto";

export function choose(theme) {
  localStorage.setItem(KEY, theme);
  apply();
}

export function apply() {
  if (current() === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = current();
}

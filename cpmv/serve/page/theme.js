// Set the chosen theme before the first paint; modules run too late for that.
try {
  const theme = localStorage.getItem("cpmv.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; the system's theme then stays.
}

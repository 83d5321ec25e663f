// Light or dark as the person chose on this device, before anything is painted. A classic script: modules come too late.
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage is forbidden: as the system says
}

// Before anything is painted: the theme that was chosen on this device. A classic script, because modules come later.
(() => {
  const apply = () => {
    let theme = null;
    try {
      theme = localStorage.getItem("theme");
    } catch {
      // storage is forbidden: as the system has it
    }
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  apply();
  addEventListener("storage", apply); // chosen in another tab
  addEventListener("calls:theme", apply); // chosen here
})();

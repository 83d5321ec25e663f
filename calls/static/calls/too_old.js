// For browsers that know no modules, or not the language that these are written in: says so. Every browser reads this.
(function () {
  function say() {
    document.getElementById("too-old").hidden = false;
    document.getElementById("home").hidden = true; // nothing on it would work
  }
  if (!("noModule" in document.createElement("script"))) document.addEventListener("DOMContentLoaded", say);
  addEventListener("error", function (event) {
    if (event.error instanceof SyntaxError) say();
  });
})();

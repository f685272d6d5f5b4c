// Starts the app; says so when it cannot.
import init from "{{app.js}}";

init({ module_or_path: new URL("{{app.wasm}}", import.meta.url) }).catch((error) => {
  const shell = document.getElementById("shell-message");
  if (shell) {
    shell.textContent = "The page could not start. Reload it, or use a current browser.";
    shell.hidden = false;
  }
  console.error(error);
});

"use strict";

// After a login, all further calls send its key.
function keep(response) {
  const key = response.ok && response.obj?.data?.indico_key;
  if (key) {
    ui.preauthorizeApiKey("indico_key", key);
    document.getElementById("note").textContent = "Logged in. Further calls send the key.";
  }
  return response;
}

const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  responseInterceptor: keep,
  tryItOutEnabled: true,
  validatorUrl: null,
});

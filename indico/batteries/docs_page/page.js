"use strict";

function say(text) {
  document.getElementById("note").textContent = text;
}

// After a login, all further calls send its key.
function keep(response) {
  const key = response.ok && response.obj?.data?.indico_key;
  if (key) {
    ui.preauthorizeApiKey("indico_key", key);
    say("Logged in. Further calls send the key.");
  }
  return response;
}

// Fetch, and call `show` with the response so far, ten times a second at most, if it is a stream.
async function fetchStream(url, request, show) {
  const response = await fetch(url, request);
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) return response;
  const part = { url, status: response.status, headers: Object.fromEntries(response.headers), text: "" };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let timer;
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return new Response(part.text, response);
      part.text += value;
      timer ??= setTimeout(() => {
        timer = undefined;
        show({ ...part });
      }, 100);
    }
  } finally {
    clearTimeout(timer);
  }
}

// A plug-in for Swagger UI, which by itself shows a response when it has ended. "Clear" ends the stream.
function ShowStreams() {
  const streams = new Map(); // the path of an action, and the controller that ends its stream

  function end(path) {
    streams.get(path)?.abort();
    streams.delete(path);
  }

  function executeRequest(original, { specActions }) {
    return (request) => {
      const { pathName, method } = request;
      const controller = new AbortController();
      const show = (part) => specActions.setResponse(pathName, method, part);
      end(pathName);
      streams.set(pathName, controller);
      const userFetch = async (url, options) => {
        try {
          return await fetchStream(url, { ...options, signal: controller.signal }, show);
        } catch (error) {
          if (controller.signal.aborted) return new Promise(() => {}); // nobody waits for it
          throw error;
        }
      };
      return original({ ...request, userFetch });
    };
  }

  const clearResponse = (original) => (path, method) => {
    end(path);
    return original(path, method);
  };
  return { statePlugins: { spec: { wrapActions: { executeRequest, clearResponse } } } };
}

const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  plugins: [ShowStreams],
  responseInterceptor: keep,
  tryItOutEnabled: true,
  validatorUrl: null,
});

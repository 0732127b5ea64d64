"use strict";

const base = new URL(document.body.dataset.base, location.href);
const show = (id, text) => { document.getElementById(id).textContent = text; };

// An open WebSocket to the app.
function connect() {
  const url = new URL("echo", base);
  url.protocol = url.protocol.replace("http", "ws");
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => resolve(socket);
    socket.onerror = () => reject(new Error("no WebSocket"));
  });
}

// Sends a message and gives what comes back.
function ask(socket, message) {
  return new Promise((resolve) => {
    socket.onmessage = (event) => resolve(event.data);
    socket.send(message);
  });
}

document.getElementById("upload").onclick = async () => {
  const body = document.getElementById("file").files[0];
  const answer = await fetch(new URL("upload", base), { method: "POST", body });
  show("uploaded", await answer.text());
};

(async () => {
  const answer = await fetch(new URL("data.json", base));
  show("data", (await answer.json()).answer);
  show("echo", await ask(await connect(), "hello"));
  document.documentElement.dataset.complete = "yes";
})();

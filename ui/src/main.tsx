import { render } from "preact";
import { App } from "./app";
import { keepWhatIsLeft } from "./looks";
import { askSession } from "./session";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/pages.css";
import "./styles/hub.css";
import "./styles/gate.css";
import "./styles/tune.css";

const root = document.getElementById("app");
if (root !== null) render(<App />, root);
void askSession().then(keepWhatIsLeft);

import { Auth0Client } from "@auth0/auth0-spa-js";

const config = await (await fetch("auth_config.json")).json();
const auth0 = new Auth0Client({
  domain: config.domain,
  clientId: config.clientId,
  authorizationParams: {
    redirect_uri: location.origin,
    audience: config.audience,
    scope: "openid profile email proxy:idp",
    connection: config.connection,
    // What the app wants of Google, and that the vault may renew it while the user is away.
    connection_scope: "https://www.googleapis.com/auth/calendar.readonly",
    access_type: "offline",
  },
});

const element = (id) => document.getElementById(id);

function say(text) {
  element("status").textContent = text;
}

async function showCalendar() {
  const token = await auth0.getTokenSilently();
  const url = `${config.vault}/v1/proxy/${config.connection}/calendar/v3/calendars/primary/events`;
  let answer;
  try {
    answer = await fetch(url, { headers: { Authorization: `Bearer ${token}` } });
  } catch {
    say("The vault cannot be reached, or its origins do not name this page.");
    return;
  }
  const body = await answer.json();
  if (!answer.ok) {
    showProblem(body);
    return;
  }
  const items = body.items.map((event) => {
    const item = document.createElement("li");
    item.textContent = `${event.start.dateTime ?? event.start.date} ${event.summary}`;
    return item;
  });
  element("events").replaceChildren(...items);
  say(`${items.length} events`);
}

// Where the user has to act, the vault says where: the link leads to Auth0.
function showProblem(problem) {
  say(problem.detail ?? "The provider refused the call.");
  if (problem.reauthorize_url) {
    element("reconnect").href = problem.reauthorize_url;
    element("reconnect").hidden = false;
  }
}

element("login").addEventListener("click", () => auth0.loginWithRedirect());
element("show").addEventListener("click", showCalendar);

if (new URLSearchParams(location.search).has("state")) {
  try {
    await auth0.handleRedirectCallback();
  } catch (error) {
    say(`Not logged in: ${error.message}`);
  }
  history.replaceState({}, "", location.pathname);
}
const user = await auth0.getUser();
element("login").hidden = user !== undefined;
element("show").hidden = user === undefined;
if (user) say(`Hello, ${user.name}`);
else if (element("status").textContent === "Loading …") say("You are not logged in.");

import { cleanup, fireEvent, render, screen, waitFor, within } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Campaign, Problem, Session, Status } from "@campaign/shared/api";
import { App } from "../src/App.tsx";

const ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const rome: Campaign = {
  id: ID,
  name: "Rome",
  place: { type: "Point", coordinates: [12.5, 41.9] },
  rule: { type: "within_radius", center: [12.5, 41.9], radiusMeters: 1000 },
  state: "pending",
  evaluatedAt: null,
  asset: null,
  createdAt: "2026-11-26T12:00:00.000001Z",
};
const status: Status = {
  services: [{ name: "redis", status: "down", detail: "ECONNREFUSED", checkedAt: "2026-11-26T12:00:00Z" }],
};
const session: Session = { accessToken: "t", expiresIn: "7d" };
const problemOf = (code: number, detail: string, errors?: Problem["errors"]): [number, Problem] => [
  code,
  { type: "about:blank", title: "", status: code, detail, requestId: "0", ...(errors && { errors }) },
];

type Answer = [status: number, body?: unknown, headers?: Record<string, string>];
let answers: Record<string, Answer>;
let asked: { what: string; authorization: string | null; body: unknown }[];

beforeEach(() => {
  asked = [];
  answers = {
    "GET /api/campaigns": [200, [rome]],
    "GET /api/status": [200, status],
    "POST /api/auth/login": [200, session],
  };
  vi.stubGlobal("fetch", (url: string, init: RequestInit = {}) => {
    const what = `${init.method ?? "GET"} ${url}`;
    const text = typeof init.body === "string" ? init.body : "null";
    asked.push({ what, authorization: new Headers(init.headers).get("authorization"), body: JSON.parse(text) });
    const [code, body, headers = {}] = answers[what] ?? problemOf(404, `not stubbed: ${what}`);
    return Promise.resolve(new Response(code === 204 ? null : JSON.stringify(body), { status: code, headers }));
  });
});
afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

const enter = (label: string, value: string) => fireEvent.change(screen.getByLabelText(label), { target: { value } });
const click = (name: string) => fireEvent.click(screen.getByRole("button", { name }));
const signIn = () => {
  enter("Username", "operator");
  enter("Password", "x");
  click("Sign in");
};
const alert = async () => (await screen.findByRole("alert")).textContent;

async function fillIn(): Promise<void> {
  await screen.findByLabelText("Name");
  enter("Name", "Paris");
  enter("Longitude", "2.35");
  enter("Latitude", "48.86");
}

describe("the list", () => {
  it("says that it loads, and then shows campaigns with their state, on the map too", async () => {
    render(<App />);
    expect(screen.getAllByText("Loading…")).toHaveLength(2);
    const list = await screen.findByRole("list", { name: "Campaigns" });
    await waitFor(() => expect(list.textContent).toContain("Rome"));
    expect(screen.queryByText("Loading…")).toBeNull();
    expect(list.textContent).toContain("pending");
    expect(document.querySelectorAll("circle.pending")).toHaveLength(1);
    expect(screen.queryByRole("button", { name: "Delete Rome" })).toBeNull();
  });

  it("says why it cannot be shown", async () => {
    answers["GET /api/campaigns"] = problemOf(500, "Something went wrong.");
    render(<App />);
    expect(await alert()).toBe("Something went wrong.");
  });

  it("goes on where the api says", async () => {
    const next = "/api/campaigns?limit=1&cursor=abc";
    answers["GET /api/campaigns"] = [200, [rome], { link: `<${next}>; rel="next"` }];
    answers[`GET ${next}`] = [200, [{ ...rome, id: ID.replace("3f", "4f"), name: "Oslo" }]];
    render(<App />);
    fireEvent.click(await screen.findByRole("button", { name: "Show more" }));
    const list = screen.getByRole("list", { name: "Campaigns" });
    await waitFor(() => expect(within(list).getAllByRole("listitem")).toHaveLength(2));
    expect(list.textContent).toContain("Oslo");
    expect(screen.queryByRole("button", { name: "Show more" })).toBeNull();
  });

  it("loses a campaign that is deleted, once that was meant", async () => {
    const confirm = vi.fn().mockReturnValueOnce(false).mockReturnValueOnce(true);
    vi.stubGlobal("confirm", confirm);
    answers[`DELETE /api/campaigns/${ID}`] = [204];
    render(<App />);
    signIn();
    fireEvent.click(await screen.findByRole("button", { name: "Delete Rome" }));
    expect(asked.filter(({ what }) => what.startsWith("DELETE"))).toEqual([]);
    answers["GET /api/campaigns"] = [200, []];
    click("Delete Rome");
    await screen.findByText("None yet.");
    expect(asked.filter(({ what }) => what.startsWith("DELETE"))).toMatchObject([{ authorization: "Bearer t" }]);
    expect(document.activeElement?.textContent).toBe("Campaigns");
  });
});

describe("the status", () => {
  it("shows which dependency is down, and asks as who signed in", async () => {
    render(<App />);
    const panel = await screen.findByRole("region", { name: "Status" });
    await waitFor(() => expect(panel.textContent).toContain("redis"));
    expect(panel.querySelector("[data-status=down]")?.textContent).toContain("ECONNREFUSED");
    signIn();
    const last = () => asked.findLast(({ what }) => what === "GET /api/status")?.authorization;
    await waitFor(() => expect(last()).toBe("Bearer t"));
  });
});

describe("signing in", () => {
  it("leads to the form, and back again", async () => {
    render(<App />);
    signIn();
    await screen.findByRole("button", { name: "Create campaign" });
    click("Sign out");
    await screen.findByRole("button", { name: "Sign in" });
    expect(screen.queryByLabelText("Name")).toBeNull();
  });

  it.each([
    [401, "The username or the password is wrong."],
    [429, "Too many attempts to sign in failed. Try again in 280 s."],
  ])("shows what the api says with %i", async (code, detail) => {
    answers["POST /api/auth/login"] = problemOf(code, detail);
    render(<App />);
    signIn();
    expect(await alert()).toBe(detail);
  });
});

describe("a new campaign", () => {
  it("is sent as it was entered", async () => {
    answers["POST /api/campaigns"] = [201, rome];
    render(<App />);
    signIn();
    await fillIn();
    enter("Radius in km", "2");
    click("Create campaign");
    await waitFor(() => expect(screen.getByLabelText<HTMLInputElement>("Name").value).toBe(""));
    expect(asked.find(({ what }) => what === "POST /api/campaigns")).toMatchObject({
      authorization: "Bearer t",
      body: {
        name: "Paris",
        place: { type: "Point", coordinates: [2.35, 48.86] },
        rule: { type: "within_radius", center: [2.35, 48.86], radiusMeters: 2000 },
      },
    });
  });

  it("shows everything that the api names when it is refused", async () => {
    answers["POST /api/campaigns"] = problemOf(400, "The request is not valid.", [
      { pointer: "#/name", detail: "too long" },
      { pointer: "#/place", detail: "no" },
    ]);
    render(<App />);
    signIn();
    await fillIn();
    click("Create campaign");
    expect(await alert()).toBe("name: too long; place: no");
  });

  it("outlives the session: who signs in again goes on where the session ended", async () => {
    answers["POST /api/campaigns"] = problemOf(401, "Your sign-in has expired. Sign in again.");
    render(<App />);
    signIn();
    await fillIn();
    click("Create campaign");
    expect(await alert()).toContain("Your session has ended.");
    expect(screen.getByRole<HTMLButtonElement>("button", { name: "Create campaign" }).disabled).toBe(true);
    answers["POST /api/campaigns"] = [201, rome];
    signIn();
    await waitFor(() => expect(screen.queryByLabelText("Password")).toBeNull());
    expect(screen.getByLabelText<HTMLInputElement>("Name").value).toBe("Paris");
    click("Create campaign");
    await waitFor(() => expect(screen.getByLabelText<HTMLInputElement>("Name").value).toBe(""));
  });
});

describe("the map", () => {
  it("takes a place from the arrow keys, and stays within the world", async () => {
    render(<App />);
    signIn();
    await screen.findByLabelText("Name");
    const map = screen.getByRole("application", { name: /^Map of campaigns/ });
    expect(map.getAttribute("tabindex")).toBe("0");
    const press = (key: string, shiftKey = false) => fireEvent.keyDown(map, { key, shiftKey });
    const place = () => ["Longitude", "Latitude"].map((label) => screen.getByLabelText<HTMLInputElement>(label).value);
    press("a");
    expect(place()).toEqual(["", ""]);
    press("ArrowLeft");
    press("ArrowUp", true);
    expect(place()).toEqual(["-1", "10"]);
    expect(document.querySelectorAll("path.cross")).toHaveLength(1);
    for (let times = 0; times < 20; times++) press("ArrowRight", true);
    press("ArrowDown");
    expect(place()).toEqual(["180", "9"]);
  });
});

import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { App } from "../src/App.tsx";

const rome = {
  id: "1",
  name: "Rome",
  place: { type: "Point", coordinates: [12.5, 41.9] },
  state: "pending",
  evaluatedAt: null,
  asset: null,
};
const answers: Record<string, [number, unknown]> = {};

beforeEach(() => {
  answers["GET /api/campaigns"] = [200, [rome]];
  answers["GET /api/status"] = [200, { services: [{ name: "redis", status: "down", detail: "ECONNREFUSED" }] }];
  answers["POST /api/auth/login"] = [200, { accessToken: "t" }];
  vi.stubGlobal("fetch", (url: string, init: RequestInit = {}) => {
    const [status, body] = answers[`${init.method ?? "GET"} ${url}`] ?? [404, { message: "not stubbed" }];
    return Promise.resolve(new Response(JSON.stringify(body), { status }));
  });
});
afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

const signIn = () => {
  fireEvent.change(screen.getByLabelText("Username"), { target: { value: "operator" } });
  fireEvent.change(screen.getByLabelText("Password"), { target: { value: "x" } });
  fireEvent.click(screen.getByRole("button", { name: "Sign in" }));
};

describe("the page", () => {
  it("lists campaigns with their state and puts them on the map", async () => {
    render(<App />);
    const list = await screen.findByRole("list", { name: "Campaigns" });
    await waitFor(() => expect(list.textContent).toContain("Rome"));
    expect(list.textContent).toContain("pending");
    expect(document.querySelectorAll("circle.pending")).toHaveLength(1);
  });

  it("shows which dependency is down", async () => {
    render(<App />);
    const panel = await screen.findByRole("region", { name: "Status" });
    await waitFor(() => expect(panel.textContent).toContain("redis"));
    expect(panel.querySelector("[data-status=down]")?.textContent).toContain("ECONNREFUSED");
  });

  it("says why a sign-in was refused", async () => {
    answers["POST /api/auth/login"] = [401, { message: "The username or the password is wrong." }];
    render(<App />);
    signIn();
    expect((await screen.findByRole("alert")).textContent).toBe("The username or the password is wrong.");
  });

  it("shows every problem that the api names when a campaign is refused", async () => {
    answers["POST /api/campaigns"] = [
      400,
      { message: "The request is not valid.", problems: ["name: too long", "place: no"] },
    ];
    render(<App />);
    signIn();
    fireEvent.change(await screen.findByLabelText("Name"), { target: { value: "Rome" } });
    fireEvent.change(screen.getByLabelText("Longitude"), { target: { value: "12" } });
    fireEvent.change(screen.getByLabelText("Latitude"), { target: { value: "41" } });
    fireEvent.click(screen.getByRole("button", { name: "Create campaign" }));
    expect((await screen.findByRole("alert")).textContent).toBe("name: too long; place: no");
  });
});

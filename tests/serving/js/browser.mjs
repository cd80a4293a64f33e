// Headless Chromium: the one $CHROME names, or the one that comes with npm.
import puppeteer from "puppeteer-core";

export async function launch() {
  let executablePath = process.env.CHROME, args = [];
  if (!executablePath) {
    const { default: chromium } = await import("@sparticuz/chromium");
    executablePath = await chromium.executablePath(); args = chromium.args;
  }
  return puppeteer.launch({ args: [...args, "--no-proxy-server", "--no-sandbox"], executablePath, headless: "shell", protocolTimeout: 240000 });
}

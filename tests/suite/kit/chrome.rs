//! A real browser: Chromium, driven by a chromedriver of our own.
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use thirtyfour::{ChromeCapabilities, prelude::*};

use super::http::{RUNTIME, wait_until};
use super::server::free_port;
use super::services::has;

/// A browser window with a fresh profile.
pub struct Chrome {
    driver: Option<WebDriver>,
    process: Child,
    _profile: tempfile::TempDir,
}

/// Whether a browser is installed.
pub fn installed() -> bool {
    has("chromedriver") && has("chromium")
}

impl Chrome {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// A browser that believes every certificate, and whose person lets sites in frames keep their cookies.
    pub fn trusting() -> Self {
        Self::with(|wishes| {
            wishes.add_arg("--ignore-certificate-errors").expect("an argument");
            wishes.add_experimental_option("prefs", json!({"profile.cookie_controls_mode": 0})).expect("a preference");
        })
    }

    fn with(more: impl FnOnce(&mut ChromeCapabilities)) -> Self {
        let port = free_port();
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver runs");
        wait_until("chromedriver listens", Duration::from_secs(20), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let profile = tempfile::tempdir().expect("a profile");
        let mut wishes = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            &format!("--user-data-dir={}", profile.path().display()),
        ] {
            wishes.add_arg(argument).expect("an argument");
        }
        more(&mut wishes);
        let driver = RUNTIME.block_on(WebDriver::new(format!("http://127.0.0.1:{port}"), wishes)).expect("a browser window");
        Self { driver: Some(driver), process, _profile: profile }
    }

    fn driver(&self) -> &WebDriver {
        self.driver.as_ref().expect("the browser is open")
    }

    pub fn open(&self, url: &str) {
        // A redirect to an address where nobody listens is an error to the driver and the expected end to us.
        let _ = RUNTIME.block_on(self.driver().goto(url));
    }

    pub fn url(&self) -> String {
        RUNTIME.block_on(self.driver().current_url()).expect("a URL").to_string()
    }

    pub fn title(&self) -> String {
        RUNTIME.block_on(self.driver().title()).expect("a title")
    }

    /// Goes on in a new tab; what leads back to the one before.
    pub fn tab(&self) -> WindowHandle {
        RUNTIME
            .block_on(async {
                let before = self.driver().window().await?;
                let handle = self.driver().new_tab().await?;
                self.driver().switch_to_window(handle).await?;
                Ok::<_, WebDriverError>(before)
            })
            .expect("a tab")
    }

    /// Goes on in another tab.
    pub fn back_to(&self, tab: WindowHandle) {
        RUNTIME.block_on(self.driver().switch_to_window(tab)).expect("the tab");
    }

    /// The content of `<meta name="page">`.
    pub fn kind(&self) -> String {
        RUNTIME.block_on(async {
            match self.driver().find(By::Css("meta[name=page]")).await {
                Ok(meta) => meta.attr("content").await.ok().flatten().unwrap_or_default(),
                Err(_) => String::new(),
            }
        })
    }

    pub fn has(&self, id: &str) -> bool {
        RUNTIME.block_on(self.driver().find(By::Id(id))).is_ok()
    }

    #[track_caller]
    pub fn type_in(&self, id: &str, text: &str) {
        RUNTIME.block_on(async { self.driver().find(By::Id(id)).await?.send_keys(text).await }).unwrap_or_else(|e| panic!("#{id}: {e}"));
    }

    #[track_caller]
    pub fn click(&self, id: &str) {
        RUNTIME
            .block_on(async { self.driver().find(By::Id(id)).await?.click().await })
            .unwrap_or_else(|e| panic!("#{id} on {}: {e}", self.url()));
    }

    #[track_caller]
    pub fn wait_for_kind(&self, kind: &str) {
        wait_until(&format!("page {kind}"), Duration::from_secs(15), || self.kind() == kind);
    }

    /// Waits until the address begins with `prefix`; the whole address.
    #[track_caller]
    pub fn wait_for_url(&self, prefix: &str) -> String {
        wait_until(&format!("address {prefix}"), Duration::from_secs(15), || self.url().starts_with(prefix));
        self.url()
    }
}

impl Drop for Chrome {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take() {
            let _ = RUNTIME.block_on(driver.quit());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

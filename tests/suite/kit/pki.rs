//! Certificate authorities as operators run them: `openssl ca` with its database, revocation lists, an OCSP responder; and one TLS
//! connection with a client certificate, kept open.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::server::{House, free_port};
use super::services;

/// An authority in a house's folder: `NAME.pem` and `NAME.key`, its database beside them.
pub struct Pki {
    house: House,
    pub name: &'static str,
}

/// Runs openssl in a house's folder.
#[track_caller]
pub fn openssl(house: &House, args: &[&str]) {
    let done = Command::new("openssl").args(args).current_dir(house.dir()).output().expect("openssl runs");
    assert!(done.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Whether openssl and curl are here; said out loud where not.
pub fn possible() -> bool {
    let all = services::has("openssl") && services::has("curl");
    if !all {
        services::skip("openssl and curl");
    }
    all
}

impl Pki {
    /// A root of its own.
    pub fn root(house: &House, name: &'static str) -> Self {
        let extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"];
        let (subject, key, out) = (format!("/CN={name}"), format!("{name}.key"), format!("{name}.pem"));
        let mut args =
            vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3", "-subj", &subject];
        args.extend(["-keyout", &key, "-out", &out]);
        // The defaults of a system's own configuration would come twice.
        house.write("bare.cnf", "[req]\ndistinguished_name=dn\n[dn]\n");
        args.extend(["-config", "bare.cnf"]);
        extensions.iter().for_each(|extension| args.extend(["-addext", extension]));
        openssl(house, &args);
        Self::database(house, name)
    }

    /// The same authority again.
    pub fn reopen(other: &Self) -> Self {
        Self { house: other.house.clone(), name: other.name }
    }

    fn database(house: &House, name: &'static str) -> Self {
        house.write(&format!("{name}.index"), "");
        house.write(&format!("{name}.index.attr"), "unique_subject = no\n");
        house.write(&format!("{name}.serial"), "1001\n");
        house.write(&format!("{name}.number"), "01\n");
        house.write(
            &format!("{name}.cnf"),
            &format!(
                "[ca]\ndefault_ca=own\n[own]\ndatabase={name}.index\nserial={name}.serial\ncrlnumber={name}.number\nnew_certs_dir=.\n\
                 default_md=sha256\npolicy=any\ndefault_days=2\ndefault_crl_days=1\nunique_subject=no\ncertificate={name}.pem\n\
                 private_key={name}.key\n[any]\norganizationName=optional\ncommonName=optional\n\
                 [partial]\nissuingDistributionPoint=critical,@point\n[point]\nonlyuser=TRUE\n"
            ),
        );
        Self { house: house.clone(), name }
    }

    /// An authority below this one.
    pub fn below(&self, name: &'static str) -> Self {
        self.issue(name, &format!("/CN={name}"), "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n");
        Self::database(&self.house, name)
    }

    /// A certificate `NAME.pem` with its key, with these extensions, one a line.
    pub fn issue(&self, name: &str, subject: &str, extensions: &str) {
        self.house.write(&format!("{name}.ext"), extensions);
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        openssl(
            &self.house,
            &[
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                subject,
                "-keyout",
                &key,
                "-out",
                &request,
                "-config",
                "bare.cnf",
            ],
        );
        let (config, out, extensions) = (format!("{}.cnf", self.name), format!("{name}.pem"), format!("{name}.ext"));
        openssl(&self.house, &["ca", "-batch", "-notext", "-config", &config, "-in", &request, "-out", &out, "-extfile", &extensions]);
    }

    /// A client's certificate with these alternative names.
    pub fn client(&self, name: &str, names: &str) {
        let names = if names.is_empty() { String::new() } else { format!("subjectAltName={names}\n") };
        self.issue(name, &format!("/O=Example/CN={name}"), &format!("extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n{names}"));
    }

    pub fn revoke(&self, name: &str) {
        openssl(&self.house, &["ca", "-config", &format!("{}.cnf", self.name), "-revoke", &format!("{name}.pem")]);
    }

    /// Writes a revocation list; `more` are further arguments. It appears whole, as careful tools do it.
    pub fn list(&self, file: &str, more: &[&str]) {
        let (config, fresh) = (format!("{}.cnf", self.name), format!("{file}.fresh"));
        openssl(&self.house, &[&["ca", "-config", &config, "-gencrl", "-out", &fresh], more].concat());
        std::fs::rename(self.house.path(&fresh), self.house.path(file)).expect("renamed");
    }

    /// A responder for its certificates, whose signer it has delegated to.
    pub fn responder(&self) -> Responder {
        self.issue("ocsp", "/CN=ocsp", "extendedKeyUsage=OCSPSigning\nkeyUsage=digitalSignature\n");
        self.responder_by("ocsp")
    }

    /// The same with another signer. It has to be started, best when all certificates are issued: it notices a change of its database
    /// with the question after the next.
    pub fn responder_by(&self, signer: &str) -> Responder {
        Responder { house: self.house.clone(), name: self.name, signer: signer.to_owned(), port: free_port(), child: None }
    }
}

/// `openssl ocsp` as a responder.
pub struct Responder {
    house: House,
    name: &'static str,
    signer: String,
    port: u16,
    child: Option<Child>,
}

impl Responder {
    pub fn start(&mut self) {
        let (index, ca) = (format!("{}.index", self.name), format!("{}.pem", self.name));
        let (signer, key) = (format!("{}.pem", self.signer), format!("{}.key", self.signer));
        let mut child = Command::new("openssl")
            .args([
                "ocsp",
                "-index",
                &index,
                "-CA",
                &ca,
                "-rsigner",
                &signer,
                "-rkey",
                &key,
                "-port",
                &self.port.to_string(),
                "-ignore_err",
            ])
            .current_dir(self.house.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl ocsp");
        // It says so itself: a connection that asks nothing would keep it busy for ever.
        let mut said = BufReader::new(child.stdout.take().expect("stdout")).lines().map_while(Result::ok);
        assert!(said.any(|line| line.starts_with("ACCEPT")), "no responder");
        self.child = Some(child);
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The DER of a certificate, base64.
pub fn der(house: &House, name: &str) -> String {
    let file = std::fs::read(house.path(&format!("{name}.pem"))).expect("a certificate");
    let first = rustls_pemfile::certs(&mut file.as_slice()).next().expect("one").expect("PEM");
    base64::engine::general_purpose::STANDARD.encode(first)
}

/// curl with a certificate: the status, or curl's own code where there was no answer; and the body.
pub fn curl(house: &House, certificate: Option<&str>, url: &str, more: &[&str]) -> (Result<u16, i32>, String) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--cacert", "root.pem", "-w", "\n%{http_code}"]).current_dir(house.dir());
    if let Some(name) = certificate {
        curl.args(["--cert", &format!("{name}.pem"), "--key", &format!("{name}.key")]);
    }
    let done = curl.args(more).arg(url).output().expect("curl");
    if !done.status.success() {
        return (Err(done.status.code().unwrap_or(-1)), String::from_utf8_lossy(&done.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (Ok(status.parse().expect("a number")), body.to_owned())
}

/// A client that shows a certificate, and resumes sessions.
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    pub fn new(house: &House, certificate: &str) -> Self {
        let read = |name: &str| -> Vec<u8> { std::fs::read(house.path(name)).expect("a file") };
        let chain = |name: &str| rustls_pemfile::certs(&mut read(name).as_slice()).map(|c| c.expect("PEM")).collect::<Vec<_>>();
        let mut roots = RootCertStore::empty();
        roots.add(chain("root.pem").remove(0)).expect("a root");
        let key = rustls_pemfile::private_key(&mut read(&format!("{certificate}.key")).as_slice()).expect("PEM").expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain(&format!("{certificate}.pem")), key)
            .expect("fits");
        Self { config: Arc::new(config) }
    }

    /// A connection to `host:port`.
    pub fn connect(&self, address: &str) -> Wire {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let name = "localhost".try_into().expect("a name");
        Wire(StreamOwned::new(ClientConnection::new(self.config.clone(), name).expect("a client"), socket))
    }
}

/// One open connection.
pub struct Wire(StreamOwned<ClientConnection, TcpStream>);

impl Wire {
    /// Whether its session was resumed; known after the first exchange.
    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("written");
    }

    /// Up to the end of a head.
    pub fn head(&mut self) -> String {
        let (mut head, mut octet) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && matches!(self.0.read(&mut octet), Ok(1)) {
            head.push(octet[0]);
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    /// A GET on this connection; its status.
    pub fn get(&mut self, path: &str, headers: &str) -> u16 {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        let head = self.head();
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>()));
        let mut body = vec![0; length.and_then(Result::ok).unwrap_or(0)];
        self.0.read_exact(&mut body).expect("a body");
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Reads until the other side closes or `limit` passes; whether it closed.
    pub fn closes_within(mut self, limit: Duration) -> bool {
        self.0.sock.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let (begun, mut buffer) = (Instant::now(), [0; 4096]);
        while begun.elapsed() < limit {
            match self.0.read(&mut buffer) {
                Ok(0) => return true,
                Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => return true,
                _ => {}
            }
        }
        false
    }
}

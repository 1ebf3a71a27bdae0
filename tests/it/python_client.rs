//! The client for Python: built and installed as a wheel, in real event loops, against the real relay.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Browser, Process, client, redis, redis::Directory, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn venv(program: &str) -> PathBuf {
    let path = root().join("target/venv/bin").join(program);
    assert!(path.exists(), "{} is missing: ./tests/run install", path.display());
    path
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {printed}{errors}");
    printed
}

/// Where the wheel is installed, built from the sources once.
fn installed() -> &'static Path {
    static PLACE: OnceLock<(Directory, PathBuf)> = OnceLock::new();
    let (_, place) = PLACE.get_or_init(|| {
        let folder = Directory::new();
        let (wheels, place) = (folder.path().join("wheels"), folder.path().join("installed"));
        let pip = |arguments: &[&str]| {
            let mut command = Command::new(venv("python"));
            command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]).args(arguments);
            succeed(command)
        };
        let sources = root().join("client/python");
        let (sources, built) = (sources.to_str().unwrap(), wheels.to_str().unwrap());
        pip(&["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, sources]);
        let wheel = std::fs::read_dir(&wheels).unwrap().next().unwrap().unwrap().path();
        println!("built {}", wheel.file_name().unwrap().to_string_lossy());
        assert!(wheel.to_string_lossy().ends_with("-py3-none-any.whl"));
        pip(&[
            "install",
            "--no-deps",
            "--target",
            place.to_str().unwrap(),
            wheel.to_str().unwrap(),
        ]);
        (folder, place)
    });
    place
}

/// A program that uses the installed package.
struct Program {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(python: &[&str], script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(python[0])
            .args(&python[1..])
            .arg(root().join("tests/support/python_client").join(script))
            .args(arguments)
            .env("PYTHONPATH", installed())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{python:?}: {error}; ./tests/run install"));
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }

    fn end(mut self) -> String {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest
    }
}

/// The person's part, with what the program shows.
async fn sign_in(prompt: &Value) {
    let browser = Browser::default();
    let session = serde_json::json!({
        "transit_url": text(prompt, "url"), "user_code": text(prompt, "user_code"),
    });
    let page = browser.sign_in(&session, "alice").await;
    assert_eq!(page.url.path(), "/addons/success", "{}", page.body);
}

async fn subject(relay: &Process, token: &str) -> Value {
    let me = client().get(format!("{}/addons/me", relay.url)).bearer_auth(token);
    me.send().await.unwrap().json::<Value>().await.unwrap()["sub"].clone()
}

/// Debian's interpreter, which has tkinter, under a display of its own.
const UNDER_A_DISPLAY: &[&str] = &["xvfb-run", "-a", "/usr/bin/python3"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spinner_in_tkinter_keeps_turning_while_a_plug_in_signs_in() {
    let relay = Process::demo(&[]);
    let mut program = Program::start(UNDER_A_DISPLAY, "tk_spinner.py", &[&relay.url, "wait"]);
    let prompt = program.line();
    // As long as a person takes who is quick.
    tokio::time::sleep(Duration::from_secs(3)).await;
    sign_in(&prompt).await;
    let result = program.line();
    println!("tkinter: {}", without_token(&result));
    assert_eq!(subject(&relay, text(&result, "token")).await, "alice");
    assert_eq!(result["on_the_loops_thread"], true);
    // It turns every 20 ms; a machine that is busy may pause now and then, a network call takes
    // seconds.
    assert!(result["turns"].as_u64().unwrap() > 50, "{result}");
    assert!(result["longest_ms"].as_u64().unwrap() < 500, "{result}");
    program.end();
}

fn without_token(result: &Value) -> Value {
    let mut shown = result.clone();
    shown.as_object_mut().unwrap().remove("token");
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plug_in_cancels() {
    let relay = Process::demo(&[("TOKEN_RELAY_LOG", "info")]);
    let mut program = Program::start(UNDER_A_DISPLAY, "tk_spinner.py", &[&relay.url, "cancel"]);
    program.line();
    let result = program.line();
    assert_eq!(result["error"], "cancelled", "{result}");
    program.end();
    redis::eventually("the relay knows", || async { relay.log().contains("cancelled") }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asyncio_awaits_the_token_and_the_next_one() {
    let relay = Process::demo(&[("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day")]);
    let python = venv("python");
    let mut program = Program::start(&[python.to_str().unwrap()], "in_asyncio.py", &[&relay.url]);
    let prompt = program.line();
    tokio::time::sleep(Duration::from_secs(1)).await;
    sign_in(&prompt).await;
    let result = program.line();
    assert!(result["ticks"].as_u64().unwrap() > 20, "{result}");
    for token in ["token", "refreshed"] {
        assert_eq!(subject(&relay, text(&result, token)).await, "alice");
    }
    program.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_killed_resumes_and_has_the_token() {
    use std::os::unix::fs::PermissionsExt as _;
    let relay = Process::demo(&[]);
    let folder = Directory::new();
    let store = folder.file("pending.json");
    let python = venv("python");
    let python = [python.to_str().unwrap()];
    let mut first = Program::start(&python, "resumed.py", &[&relay.url, &store, "begin"]);
    let prompt = first.line();
    // Ended like a host that crashes.
    drop(first);
    let mode = std::fs::metadata(&store).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    sign_in(&prompt).await;
    let again = || Program::start(&python, "resumed.py", &[&relay.url, &store, "resume"]);
    let mut second = again();
    let result = second.line();
    assert_eq!(subject(&relay, text(&result, "token")).await, "alice");
    second.end();
    assert!(!Path::new(&store).exists(), "it is done");
    let mut third = again();
    assert_eq!(third.line()["nothing"], true);
    third.end();
}

/// A proxy that gives the client nothing of an event stream until that has ended.
async fn holding_back_streams(target: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let target = target.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    match client.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(read) => head.extend_from_slice(&buffer[..read]),
                    }
                }
                let is_stream = head.windows(8).any(|part| part == b"/events ");
                let mut relay = tokio::net::TcpStream::connect(&target).await.unwrap();
                relay.write_all(&head).await.unwrap();
                if is_stream {
                    let mut all = Vec::new();
                    let _ = relay.read_to_end(&mut all).await;
                    let _ = client.write_all(&all).await;
                } else {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut relay).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_streams_are_held_back_it_polls() {
    // The relay names its public URL, which is the proxy's here.
    let port = redis::free_port();
    let listen = format!("127.0.0.1:{port}");
    let proxy = holding_back_streams(listen.clone()).await;
    let relay = Process::start(
        &[
            "demo",
            "--no-open",
            "--allow-production",
            "--listen",
            &listen,
            "--provider-listen",
            "127.0.0.1:0",
        ],
        &[("TOKEN_RELAY_PUBLIC_URL", &format!("http://{proxy}/"))],
    );
    let python = venv("python");
    let url = format!("http://{proxy}");
    let mut program = Program::start(&[python.to_str().unwrap()], "in_asyncio.py", &[&url]);
    let prompt = program.line();
    // After ten seconds without a byte it gives the stream up.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let start = std::time::Instant::now();
    sign_in(&prompt).await;
    let result = program.line();
    println!("held back: the token came {:?} after the login began", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{result}");
    assert!(result["token"].is_string());
    program.end();
    drop(relay);
}

#[test]
fn it_is_one_module_of_python_3_9_on_the_standard_library_and_typed() {
    let module = root().join("client/python/src/token_relay/__init__.py");
    let module = module.to_str().unwrap();
    let check = "import ast, sys\n\
        tree = ast.parse(open(sys.argv[1], encoding='utf-8').read(), feature_version=(3, 9))\n\
        names = set()\n\
        for node in ast.walk(tree):\n\
        \x20   if isinstance(node, ast.Import): names |= {each.name for each in node.names}\n\
        \x20   if isinstance(node, ast.ImportFrom): names.add(node.module)\n\
        optional = {'cryptography'}\n\
        foreign = {name.split('.')[0] for name in names} - set(sys.stdlib_module_names) - optional\n\
        assert not foreign, foreign\n";
    let mut python = Command::new(venv("python"));
    python.args(["-c", check, module]);
    succeed(python);
    let mut mypy = Command::new(venv("mypy"));
    mypy.args(["--strict", "--python-version", "3.9", "--cache-dir", "/dev/null", module]);
    println!("{}", succeed(mypy).trim());
}

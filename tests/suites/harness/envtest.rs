//! Releases of envtest, on a file server of the test's own: downloaded, refused, and built instead.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use tenure_tests::assets::envtest::{IN_ARCHIVE, PROGRAMS, VARIABLE, VERSION, fetch, pinned};
use tenure_tests::process::{folder, free_port};
use tenure_tests::{Context, Result, ensure};

/// Printed by the programs of the archives that these tests make.
const DOWNLOADED: &str = "98.0.0";
/// Printed by what the `go` of these tests builds.
const BUILT: &str = "99.0.0";

#[test]
fn a_release_is_downloaded_once_and_then_found_in_the_cache() -> Result {
    let archive = good_archive()?;
    let server = FileServer::start(&archive, Reply::Whole)?;
    let machine = Machine::new()?;

    fetch(&server.url, &sha512(&archive)?, &machine.release())?;

    let names = fs::read_dir(machine.release())?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    assert_eq!(names, PROGRAMS);
    let output = machine.assets(&server.base, &PROGRAMS)?;
    let release = machine.release().display().to_string();
    assert_eq!(
        lines_with(&output.stdout, &[DOWNLOADED, &release]),
        3,
        "{output:?}"
    );
    assert_eq!(server.requests(), 1);
    Ok(())
}

#[test]
fn what_was_downloaded_is_not_used_if_releases_may_not_be() -> Result {
    let archive = good_archive()?;
    let server = FileServer::start(&archive, Reply::Whole)?;
    let machine = Machine::new()?;
    fetch(&server.url, &sha512(&archive)?, &machine.release())?;

    let output = machine.assets("", &PROGRAMS)?;

    assert_eq!(lines_with(&output.stdout, &[BUILT]), 3, "{output:?}");
    assert_eq!(server.requests(), 1);
    Ok(())
}

#[test]
fn an_archive_with_another_checksum_is_named_and_the_programs_are_built() -> Result {
    let server = FileServer::start(&good_archive()?, Reply::Whole)?;
    let machine = Machine::new()?;

    let output = machine.assets(&server.base, &PROGRAMS)?;

    assert_eq!(lines_with(&output.stdout, &[BUILT]), 3, "{output:?}");
    let sha512 = pinned()?.1;
    let error = [&server.url, "SHA-512", sha512, "etcd is built instead"];
    assert_eq!(lines_with(&output.stderr, &error), 1, "{output:?}");
    assert!(!machine.release().exists());
    // The programs that follow are built at once.
    assert_eq!(server.requests(), 1);
    Ok(())
}

#[test]
fn the_programs_are_built_if_the_server_does_not_have_the_archive() -> Result {
    let server = FileServer::start(&good_archive()?, Reply::NotFound)?;
    built_instead(&server.base, "404")
}

#[test]
fn the_programs_are_built_if_the_server_refuses_connections() -> Result {
    built_instead(&format!("http://127.0.0.1:{}", free_port()?), "curl: (7)")
}

#[test]
fn the_programs_are_built_if_the_server_does_not_answer() -> Result {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = server.local_addr()?;
    // Its queue is full when Linux no longer answers a connection.
    let mut queue = Vec::new();
    while let Ok(connection) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(connection);
    }
    let begun = Instant::now();
    built_instead(&format!("http://{address}"), "curl: (28)")?;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    Ok(())
}

/// Nothing was downloaded from `base`, with an error that has this part, and all programs were built.
fn built_instead(base: &str, error: &str) -> Result {
    let machine = Machine::new()?;
    let output = machine.assets(base, &PROGRAMS)?;
    assert_eq!(lines_with(&output.stdout, &[BUILT]), 3, "{output:?}");
    let url = format!("{base}/{}", pinned()?.0);
    assert_eq!(lines_with(&output.stderr, &[&url, error]), 1, "{output:?}");
    assert!(!machine.release().exists());
    Ok(())
}

#[test]
fn a_download_that_ends_early_leaves_nothing() -> Result {
    let archive = good_archive()?;
    let server = FileServer::start(&archive, Reply::Half)?;
    refused(&server, &sha512(&archive)?, "curl: (18)")
}

#[test]
fn an_archive_that_ends_early_leaves_nothing() -> Result {
    let archive = good_archive()?;
    let half = &archive[..archive.len() / 2];
    let server = FileServer::start(half, Reply::Whole)?;
    refused(&server, &sha512(half)?, "unpacking")
}

#[test]
fn a_program_that_lies_elsewhere_in_the_archive_is_not_taken() -> Result {
    let files = fake_release()?;
    fs::create_dir_all(files.join("kubebuilder/bin"))?;
    let kubectl = files.join(IN_ARCHIVE).join("kubectl");
    fs::rename(kubectl, files.join("kubebuilder/bin/kubectl"))?;
    let archive = pack(&files, &["controller-tools", "kubebuilder"])?;
    let server = FileServer::start(&archive, Reply::Whole)?;
    refused(&server, &sha512(&archive)?, "controller-tools/envtest/kubectl")
}

#[test]
fn a_link_is_not_taken_for_a_program() -> Result {
    let files = fake_release()?;
    let kubectl = files.join(IN_ARCHIVE).join("kubectl");
    fs::remove_file(&kubectl)?;
    symlink("/bin/sh", &kubectl)?;
    let archive = pack(&files, &["controller-tools"])?;
    let server = FileServer::start(&archive, Reply::Whole)?;
    refused(&server, &sha512(&archive)?, "not a regular file")
}

/// The archive of `server` is refused with an error that has this part, and leaves nothing behind.
fn refused(server: &FileServer, sha512: &str, part: &str) -> Result {
    let machine = Machine::new()?;
    let error = fetch(&server.url, sha512, &machine.release()).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains(part) && error.contains(&server.url), "{error}");
    let left = fs::read_dir(machine.cache.join("tenure"));
    assert_eq!(left.map_or(0, Iterator::count), 0);
    Ok(())
}

#[test]
fn nothing_but_the_three_programs_is_unpacked() -> Result {
    let files = fake_release()?;
    for more in [&format!("{IN_ARCHIVE}/more"), "beside", "escaped"] {
        fs::write(files.join(more), "more")?;
    }
    let archive = pack(&files, &["controller-tools", "beside", "escaped"])?;
    let server = FileServer::start(&archive, Reply::Whole)?;
    let machine = Machine::new()?;

    fetch(&server.url, &sha512(&archive)?, &machine.release())?;

    assert_eq!(files_below(&machine.release())?, 3);
    assert_eq!(files_below(&machine.cache)?, 3);
    Ok(())
}

/// Serves one archive at the path of the pinned release until the tests end.
struct FileServer {
    base: String,
    url: String,
    requests: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum Reply {
    Whole,
    /// Half of the archive under the length of the whole.
    Half,
    NotFound,
}

impl FileServer {
    fn start(archive: &[u8], reply: Reply) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let base = format!("http://{}", listener.local_addr()?);
        let path = pinned()?.0;
        let url = format!("{base}/{path}");
        let requests = Arc::new(AtomicUsize::new(0));
        let (archive, count) = (archive.to_owned(), requests.clone());
        thread::spawn(move || {
            for connection in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                // A client that goes away is the client's test.
                let _ = connection.and_then(|connection| answer(connection, &path, &archive, reply));
            }
        });
        Ok(Self { base, url, requests })
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Answers one request, and closes the connection.
fn answer(mut connection: TcpStream, path: &str, archive: &[u8], reply: Reply) -> io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let found = request == format!("GET /{path} HTTP/1.1");
    let (status, length, body) = match reply {
        Reply::Whole if found => ("200 OK", archive.len(), archive),
        Reply::Half if found => ("200 OK", archive.len(), &archive[..archive.len() / 2]),
        _ => ("404 Not Found", 0, &[][..]),
    };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(body)
}

/// A machine without the programs, with a `go` that builds them in no time, and with what a download needs.
struct Machine {
    path: PathBuf,
    cache: PathBuf,
}

impl Machine {
    fn new() -> Result<Self> {
        let path = folder("path")?;
        for name in ["curl", "sha512sum", "tar", "gzip"] {
            let folders = env::var_os("PATH").context("PATH is not set")?;
            let program = env::split_paths(&folders)
                .map(|folder| folder.join(name))
                .find(|program| program.is_file())
                .with_context(|| {
                    format!("{name} is not in PATH: run `apt-get install curl coreutils tar gzip`")
                })?;
            symlink(program, path.join(name))?;
        }
        write_program(
            &path.join("go"),
            &format!(
                "PATH=/usr/bin:/bin
                [ \"$1\" = version ] && exit
                while [ \"$1\" != -o ]; do shift; done
                printf '#!/bin/sh\\necho {BUILT}\\n' >\"$2\" && chmod +x \"$2\""
            ),
        )?;
        Ok(Self {
            path,
            cache: folder("cache")?,
        })
    }

    /// The folder in which a release is cached.
    fn release(&self) -> PathBuf {
        self.cache.join(format!("tenure/bin-envtest-{VERSION}"))
    }

    /// The output of `assets NAMES`, with this base URL.
    fn assets(&self, base: &str, names: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assets"));
        command
            .args(names)
            .env("PATH", &self.path)
            .env("XDG_CACHE_HOME", &self.cache)
            .env(VARIABLE, base)
            .env("no_proxy", "127.0.0.1")
            .env_remove("TENURE_TEST_ASSETS")
            .env_remove("KUBEBUILDER_ASSETS");
        let output = command.output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(output)
    }
}

/// Counts the lines that have all these parts.
fn lines_with(text: &[u8], parts: &[&str]) -> usize {
    let text = String::from_utf8_lossy(text);
    let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
    text.lines().filter(has_all).count()
}

fn write_program(path: &Path, script: &str) -> Result {
    fs::write(path, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// A folder with the programs of a release, which print a version and can do nothing else.
fn fake_release() -> Result<PathBuf> {
    let files = folder("release")?;
    fs::create_dir_all(files.join(IN_ARCHIVE))?;
    for name in PROGRAMS {
        write_program(&files.join(IN_ARCHIVE).join(name), &format!("echo {DOWNLOADED}"))?;
    }
    Ok(files)
}

fn good_archive() -> Result<Vec<u8>> {
    pack(&fake_release()?, &["controller-tools"])
}

/// An archive of these files. That of the file `escaped` leads, without its first two parts, to the cache.
fn pack(files: &Path, names: &[&str]) -> Result<Vec<u8>> {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--gzip",
        "--absolute-names",
        "--transform=s,^escaped,../../../../escaped,",
    ]);
    let output = tar.arg("--directory").arg(files).args(names).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(output.stdout)
}

fn sha512(bytes: &[u8]) -> Result<String> {
    let file = folder("sum")?.join("file");
    fs::write(&file, bytes)?;
    let output = Command::new("sha512sum").arg(&file).output()?;
    let output = String::from_utf8(output.stdout)?;
    Ok(output.split_whitespace().next().context("no sum")?.to_owned())
}

/// Counts the files in this folder and below.
fn files_below(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() {
            files_below(&entry.path())?
        } else {
            1
        };
    }
    Ok(count)
}

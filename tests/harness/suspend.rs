//! A machine that is suspended, as one process sees it. A real suspend would take the test along.
//!
//! A library of a few lines, compiled once a run and preloaded, shifts `CLOCK_BOOTTIME` by what stands in a file, and
//! leaves all other clocks as they are: after a suspend they differ in just this way.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::Result;
use crate::process::folder;

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *time) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int outcome = real(id, time);
  if (outcome == 0 && id == CLOCK_BOOTTIME) {
    long seconds = 0;
    FILE *file = fopen(getenv("SUSPENDED_SECONDS"), "r");
    if (file) {
      if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
      fclose(file);
    }
    time->tv_sec += seconds;
  }
  return outcome;
}
"#;

/// Handle that suspends the processes that were started with it.
#[derive(Debug)]
pub struct Suspender {
    library: PathBuf,
    seconds: PathBuf,
}

impl Suspender {
    /// Needs a C compiler, as building Redis does.
    pub fn new() -> Result<Self> {
        let folder = folder("suspend")?;
        let (source, library) = (folder.join("suspend.c"), folder.join("suspend.so"));
        fs::write(&source, SHIM)?;
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .context("cc is needed to compile a few lines of C: install a C compiler")?;
        ensure!(
            output.status.success(),
            "cc: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let seconds = folder.join("seconds");
        fs::write(&seconds, "0\n")?;
        Ok(Self { library, seconds })
    }

    /// The process of this command can be suspended.
    pub fn prepare(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("SUSPENDED_SECONDS", &self.seconds);
    }

    /// Its processes have been suspended for so many whole seconds in all, and are awake again.
    pub fn suspend(&self, span: Duration) -> Result<()> {
        // In one step: a process may be reading.
        let new = self.seconds.with_extension("new");
        fs::write(&new, format!("{}\n", span.as_secs()))?;
        fs::rename(new, &self.seconds)?;
        Ok(())
    }
}

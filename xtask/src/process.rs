//! Running other programs: their output goes to a log, and a person sees that they go on.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::project;

/// How often a line about a running step is written where there is no terminal.
const QUIET_INTERVAL: Duration = Duration::from_secs(15);

/// A step that runs one program after another into one log.
pub(crate) struct Step {
    name: String,
    log: PathBuf,
    file: File,
    began: Instant,
    limit: Option<Duration>,
}

/// What became of a program.
pub(crate) enum Ended {
    /// It ended by itself.
    Exited(ExitStatus),
    /// It was stopped since it took longer than the step may.
    Overdue(Duration),
}

impl Step {
    /// A step with an empty log, `target/logs/<name>.log`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let dir = project::target_dir().join("logs");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let log = dir.join(format!("{}.log", name.replace([' ', '/'], "-")));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self { name: name.to_owned(), log, file, began: Instant::now(), limit: None })
    }

    /// Stops what the step runs when this much time has passed since it began.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The time since the step began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Runs a program to its end, or fails with the end of its output.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let mut last = String::new();
        let ended = self.watch(command, |text| {
            if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                last = line.trim().to_owned();
            }
            last.clone()
        })?;
        match ended {
            Ended::Exited(status) if status.success() => Ok(()),
            Ended::Exited(status) => {
                Err(anyhow!("{} failed ({status}){}", self.name, self.tail(40)))
            }
            Ended::Overdue(limit) => {
                Err(anyhow!("{} took longer than {}{}", self.name, shown(limit), self.tail(40)))
            }
        }
    }

    /// Runs a program to its end. `progress` is given each piece of output as it comes (whole
    /// characters, not whole lines) and says in a few words what is being done.
    pub(crate) fn watch(
        &mut self,
        command: &mut Command,
        mut progress: impl FnMut(&str) -> String,
    ) -> Result<Ended> {
        let from = self.file.metadata().map_or(0, |log| log.len());
        let mut reader = File::open(&self.log)?;
        io::Seek::seek(&mut reader, io::SeekFrom::Start(from))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(self.file.try_clone()?)
            .stderr(self.file.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let mut line = StatusLine::new(&self.name, self.began);
        let mut pending = Vec::new();
        loop {
            let ended = child.try_wait()?;
            let doing = progress(&read_new(&mut reader, &mut pending)?);
            if let Some(status) = ended {
                line.clear();
                return Ok(Ended::Exited(status));
            }
            line.show(&doing);
            if let Some(limit) = self.limit.filter(|limit| self.began.elapsed() > *limit) {
                line.clear();
                stop(&mut child);
                return Ok(Ended::Overdue(limit));
            }
            // Short programs are not kept waiting, long ones are not polled for nothing.
            thread::sleep(
                (self.began.elapsed() / 20)
                    .clamp(Duration::from_millis(5), Duration::from_millis(200)),
            );
        }
    }

    /// The end of the log and where the rest is, to be appended to a message.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        let tail = all[all.len().saturating_sub(lines)..].join("\n");
        format!(", its output ends:\n{tail}\n(all of it: {})", self.log.display())
    }
}

/// What was appended to a file since the last call, up to the last whole character.
fn read_new(reader: &mut File, pending: &mut Vec<u8>) -> Result<String> {
    reader.read_to_end(pending)?;
    let whole = match std::str::from_utf8(pending) {
        Ok(_) => pending.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => pending.len(),
    };
    let text = String::from_utf8_lossy(&pending[..whole]).into_owned();
    pending.drain(..whole);
    Ok(text)
}

/// Ends a program and everything that it started: first politely, so that it can clean up.
fn stop(child: &mut Child) {
    let family = descendants(child.id());
    let signal = |name: &str| {
        let ids = family.iter().map(u32::to_string);
        // They may be gone already, which is all that is wanted.
        let _ = Command::new("kill").arg(name).args(ids).stderr(Stdio::null()).status();
    };
    signal("-TERM");
    for _ in 0..50 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    signal("-KILL");
    let _ = child.wait();
}

/// A process and all that descend from it.
fn descendants(root: u32) -> Vec<u32> {
    let processes: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything: fields are counted from its end.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((id, parent))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        family.extend(processes.iter().filter(|(_, parent)| *parent == member).map(|(id, _)| id));
        next += 1;
    }
    family
}

/// The line about a running step: rewritten each second on a terminal, else a new one seldom.
struct StatusLine {
    name: String,
    began: Instant,
    terminal: bool,
    last: Instant,
    visible: bool,
}

impl StatusLine {
    fn new(name: &str, began: Instant) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { name: name.to_owned(), began, terminal, last: Instant::now(), visible: false }
    }

    fn show(&mut self, doing: &str) {
        let interval = if self.terminal { Duration::from_secs(1) } else { QUIET_INTERVAL };
        if self.last.elapsed() < interval {
            return;
        }
        self.last = Instant::now();
        let doing: String = doing.chars().filter(|c| !c.is_control()).take(60).collect();
        let elapsed = shown(self.began.elapsed());
        let doing = if doing.is_empty() { doing } else { format!(": {doing}") };
        let mut err = io::stderr().lock();
        // A person who closed the terminal is no reason to stop.
        let _ = if self.terminal {
            self.visible = true;
            write!(err, "\r\x1b[K  {} {elapsed}{doing}", self.name).and_then(|()| err.flush())
        } else {
            writeln!(err, "  {} {elapsed}{doing}", self.name)
        };
    }

    fn clear(&mut self) {
        if self.visible {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}

/// `7.5 s` or `3.2 min`.
pub(crate) fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 90.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

/// Becomes the program: its exit code and its signals are then those of this process.
pub(crate) fn become_program(command: &mut Command) -> Result<bool> {
    let error = command.exec();
    bail!("cannot run {}: {error}", command.get_program().display())
}

/// What a short program prints, if it succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_reported_with_the_end_of_its_output() {
        let mut step = Step::new("test of process failing").unwrap();
        let mut sh = Command::new("sh");
        let error = step.run(sh.args(["-c", "echo first; echo last >&2; exit 3"])).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.contains("first\nlast"), "{message}");
        assert!(message.contains(&step.log.display().to_string()), "{message}");
    }

    #[test]
    fn an_overdue_program_is_stopped_with_its_children() {
        let mut step =
            Step::new("test of process overdue").unwrap().limit(Duration::from_millis(200));
        let began = Instant::now();
        let mut sh = Command::new("sh");
        let ended = step.watch(sh.args(["-c", "sleep 321.123; echo unreached"]), str::to_owned);
        assert!(matches!(ended, Ok(Ended::Overdue(_))));
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        let alive = || {
            let mut processes = fs::read_dir("/proc").unwrap().flatten();
            processes.any(|entry| {
                let line = fs::read(entry.path().join("cmdline"));
                line.is_ok_and(|line| line == b"sleep\x00321.123\x00")
            })
        };
        // Killed it is, but a busy machine may take its time to end it.
        let until = Instant::now() + Duration::from_secs(5);
        while alive() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(!alive(), "the grandchild must not outlive the step");
    }

    #[test]
    fn output_is_split_between_characters_only() {
        let path = project::target_dir().join("logs/test-of-read-new");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer = File::create(&path).unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut pending = Vec::new();
        writer.write_all("a…".as_bytes().split_at(2).0).unwrap();
        assert_eq!(read_new(&mut reader, &mut pending).unwrap(), "a");
        writer.write_all("a…".as_bytes().split_at(2).1).unwrap();
        assert_eq!(read_new(&mut reader, &mut pending).unwrap(), "…");
        fs::remove_file(path).unwrap();
    }
}

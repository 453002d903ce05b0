//! Docker's configuration: `daemon.json`, of which `runtimes` names the runtimes that containers can be given.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

/// Where Docker keeps it unless told otherwise.
pub const CONFIG: &str = "/etc/docker/daemon.json";

/// What has become of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was so already.
    Unchanged,
    Changed,
}

/// A file of objects, and how it is written.
struct Config {
    /// What it is a link to, if it is one.
    path: PathBuf,
    top: Map<String, Value>,
    indent: String,
}

/// The indentation of the first line that has one.
fn indent(text: &str) -> String {
    let of = |line: &str| line.chars().take_while(|c| *c == ' ' || *c == '\t').collect::<String>();
    text.lines().map(of).find(|indent| !indent.is_empty()).unwrap_or_else(|| "    ".to_owned())
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| path.display().to_string())?,
        };
        let top = if text.trim().is_empty() {
            Map::new()
        } else {
            match serde_json::from_str(&text)
                .with_context(|| format!("{} isn't valid JSON, and is left as it is", path.display()))?
            {
                Value::Object(top) => top,
                _ => bail!("{}: must be an object", path.display()),
            }
        };
        Ok(Self { path, top, indent: indent(&text) })
    }

    /// The object `runtimes`, made if `make`.
    fn runtimes(&mut self, make: bool) -> Result<Option<&mut Map<String, Value>>> {
        let path = self.path.display().to_string();
        if make {
            self.top.entry("runtimes").or_insert_with(|| json!({}));
        }
        match self.top.get_mut("runtimes") {
            None => Ok(None),
            Some(Value::Object(runtimes)) => Ok(Some(runtimes)),
            Some(_) => bail!("{path}: runtimes: must be an object"),
        }
    }

    /// Replaces the file as a whole; mode and owner stay.
    fn write(&self) -> Result<()> {
        let told = || self.path.display().to_string();
        let mut text = Vec::new();
        let formatter = PrettyFormatter::with_indent(self.indent.as_bytes());
        serde::Serialize::serialize(&self.top, &mut Serializer::with_formatter(&mut text, formatter))?;
        text.push(b'\n');
        let dir = self.path.parent().with_context(told)?;
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let before = fs::metadata(&self.path).ok();
        let temporary = dir.join(format!(".daemon.json.{}", std::process::id()));
        let written = (|| -> std::io::Result<()> {
            let mut file = File::options().write(true).create_new(true).mode(0o644).open(&temporary)?;
            if let Some(before) = before {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
                file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
            }
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            // The name is to be on the disk too.
            File::open(dir)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.with_context(told)
    }
}

/// Makes a runtime known under `name`: `program`, run with `args`.
///
/// # Errors
/// When the file isn't what it must be, or can't be written. It is as before then.
pub fn install(path: &Path, name: &str, program: &Path, args: &[String]) -> Result<Outcome> {
    if name.is_empty() || name == "runc" || name.contains('/') || name.starts_with("io.containerd.") {
        bail!("--runtime {name:?}: Docker has other uses for that name");
    }
    let mut config = Config::read(path)?;
    let mut runtime = Map::from_iter([("path".to_owned(), json!(program.to_str().context("the program's path isn't UTF-8")?))]);
    if !args.is_empty() {
        runtime.insert("runtimeArgs".into(), json!(args));
    }
    let runtimes = config.runtimes(true)?.context("no runtimes")?;
    let runtime = Value::Object(runtime);
    if runtimes.get(name) == Some(&runtime) {
        return Ok(Outcome::Unchanged);
    }
    runtimes.insert(name.to_owned(), runtime);
    config.write()?;
    Ok(Outcome::Changed)
}

/// Makes a runtime unknown again. Were it what containers are given by default, Docker's own would be from now on.
///
/// # Errors
/// As [`install`].
pub fn uninstall(path: &Path, name: &str) -> Result<Outcome> {
    let mut config = Config::read(path)?;
    let mut changed = false;
    if let Some(runtimes) = config.runtimes(false)? {
        changed = runtimes.shift_remove(name).is_some();
        if runtimes.is_empty() {
            config.top.shift_remove("runtimes");
        }
    }
    if config.top.get("default-runtime").and_then(Value::as_str) == Some(name) {
        config.top.shift_remove("default-runtime");
        changed = true;
    }
    if !changed {
        return Ok(Outcome::Unchanged);
    }
    config.write()?;
    Ok(Outcome::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of its own, removed on drop.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, text: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("palisade-docker-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let path = dir.join("daemon.json");
            fs::write(&path, text).unwrap();
            Self(path)
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.0).unwrap()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    const OTHERS: &str = "{\n  \"storage-driver\": \"vfs\",\n  \"runtimes\": {\n    \"kata\": {\n      \"path\": \"/k\"\n    }\n  },\n  \"debug\": true\n}\n";

    #[test]
    fn what_is_there_stays_in_its_order() {
        let file = Temporary::new("order", OTHERS);
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600)).unwrap();
        let args = ["--debug".to_owned()];
        assert_eq!(install(&file.0, "palisade", Path::new("/p"), &args).unwrap(), Outcome::Changed);
        let expected = OTHERS.replace(
            "\"/k\"\n    }\n",
            "\"/k\"\n    },\n    \"palisade\": {\n      \"path\": \"/p\",\n      \"runtimeArgs\": [\n        \"--debug\"\n      ]\n    }\n",
        );
        assert_eq!(file.text(), expected);
        assert_eq!(fs::metadata(&file.0).unwrap().mode() & 0o777, 0o600);
        assert_eq!(install(&file.0, "palisade", Path::new("/p"), &args).unwrap(), Outcome::Unchanged);
        assert_eq!(uninstall(&file.0, "palisade").unwrap(), Outcome::Changed);
        assert_eq!(file.text(), OTHERS);
        assert_eq!(uninstall(&file.0, "palisade").unwrap(), Outcome::Unchanged);
        assert_eq!(fs::read_dir(file.0.parent().unwrap()).unwrap().count(), 1, "something is left");
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        let file = Temporary::new("empty", "");
        fs::remove_file(&file.0).unwrap();
        assert_eq!(uninstall(&file.0, "palisade").unwrap(), Outcome::Unchanged);
        assert!(!file.0.exists());
        install(&file.0, "palisade", Path::new("/p"), &[]).unwrap();
        assert_eq!(
            file.text(),
            "{\n    \"runtimes\": {\n        \"palisade\": {\n            \"path\": \"/p\"\n        }\n    }\n}\n"
        );
        fs::write(&file.0, r#"{"default-runtime":"palisade","runtimes":{"palisade":{"path":"/p"}}}"#).unwrap();
        uninstall(&file.0, "palisade").unwrap();
        assert_eq!(file.text(), "{}\n");
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        for text in ["{", "[]", "{\"runtimes\": []}"] {
            let file = Temporary::new("bad", text);
            assert!(install(&file.0, "palisade", Path::new("/p"), &[]).is_err(), "{text}");
            assert_eq!(file.text(), text);
        }
        let file = Temporary::new("name", "{}");
        assert!(install(&file.0, "runc", Path::new("/p"), &[]).is_err());
    }

    #[test]
    fn links_are_followed() {
        let file = Temporary::new("link", "{}");
        let link = file.0.with_file_name("link.json");
        std::os::unix::fs::symlink(&file.0, &link).unwrap();
        install(&link, "palisade", Path::new("/p"), &[]).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && file.text().contains("palisade"));
    }
}

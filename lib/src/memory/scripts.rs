//! Runs the protocol's scripts in an embedded Lua, with values converted to and fro as Redis does.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, LazyLock, Mutex},
};

use mlua::{Function, Lua, LuaOptions, MultiValue, StdLib, Table, Value as LuaValue, chunk::ChunkMode};
use redis::Value;

use crate::memory::{
    commands::{Database, general},
    store::Bytes,
};
use crate::{Error, protocol::script::Script, transport::lock};

/// As on a server, a script that catches an error that is a table gets its text.
const CATCH: &str = "local raw = pcall
local function caught(whole, problem, ...)
  if not whole and type(problem) == 'table' and problem.err then return false, problem.err end
  return whole, problem, ...
end
function pcall(...) return caught(raw(...)) end";

/// An error that is a table is the reply, as on a server.
const ATTEMPT: &str = "local whole, reply = raw_pcall(...)
if whole or type(reply) == 'table' then return reply end
error(reply, 0)";

/// Scripts by their hashes.
type Bytecode = HashMap<&'static str, Arc<[u8]>>;

/// The scripts that this process has compiled. Compiling all of them takes longer than the life of many twins.
static COMPILED: LazyLock<Mutex<Bytecode>> = LazyLock::new(Mutex::default);

pub(super) struct Interpreter {
    lua: Lua,
    attempt: Function,
    database: Arc<Mutex<Database>>,
    loaded: HashMap<&'static str, Function>,
}

impl Interpreter {
    pub(super) fn new(database: Arc<Mutex<Database>>) -> mlua::Result<Self> {
        let lua = Lua::new_with(
            StdLib::TABLE | StdLib::STRING | StdLib::MATH,
            LuaOptions::default(),
        )?;
        let redis = lua.create_table()?;
        let (called, tried) = (database.clone(), database.clone());
        redis.set(
            "call",
            lua.create_function(move |lua, args: MultiValue| {
                to_lua(lua, command(&called, &args)?.map_err(mlua::Error::RuntimeError)?)
            })?,
        )?;
        redis.set(
            "pcall",
            lua.create_function(move |lua, args: MultiValue| match command(&tried, &args)? {
                Ok(reply) => to_lua(lua, reply),
                Err(text) => Ok(LuaValue::Table(lua.create_table_from([("err", text)])?)),
            })?,
        )?;
        redis.set(
            "error_reply",
            lua.create_function(|lua, text: LuaValue| lua.create_table_from([("err", text)]))?,
        )?;
        redis.set(
            "sha1hex",
            lua.create_function(|_, text: mlua::LuaString| {
                Ok(sha1_smol::Sha1::from(&text.as_bytes()[..]).digest().to_string())
            })?,
        )?;
        let cjson = lua.create_table()?;
        cjson.set(
            "decode",
            lua.create_function(|lua, text: mlua::LuaString| {
                let read = serde_json::from_slice(&text.as_bytes());
                decoded(
                    lua,
                    read.map_err(|error| mlua::Error::RuntimeError(format!("ERR {error}")))?,
                )
            })?,
        )?;
        lua.globals().set("redis", redis)?;
        lua.globals().set("cjson", cjson)?;
        let raw: Function = lua.globals().get("pcall")?;
        lua.globals().set("raw_pcall", raw)?;
        let attempt = lua.load(ATTEMPT).into_function()?;
        lua.load(CATCH).exec()?;
        Ok(Self {
            lua,
            attempt,
            database,
            loaded: HashMap::new(),
        })
    }

    /// The script's reply, an error reply included, and the messages that it has sent.
    pub(super) fn run(
        &mut self,
        script: &'static Script,
        keys: &[String],
        args: &[String],
        now_us: u64,
    ) -> (Value, Vec<(String, String)>) {
        {
            let mut database = lock(&self.database);
            database.now_us = now_us;
            database.work = 0;
            database.store.expire(now_us / 1000);
            database.keys = keys.iter().map(|key| key.clone().into_bytes()).collect();
        }
        let reply = self
            .evaluate(script, keys, args)
            .unwrap_or_else(|error| error_reply(&explain(&error)));
        (reply, std::mem::take(&mut lock(&self.database).published))
    }

    fn evaluate(&mut self, script: &'static Script, keys: &[String], args: &[String]) -> mlua::Result<Value> {
        let globals = self.lua.globals();
        globals.raw_set(
            "KEYS",
            self.lua.create_sequence_from(keys.iter().map(String::as_str))?,
        )?;
        globals.raw_set(
            "ARGV",
            self.lua.create_sequence_from(args.iter().map(String::as_str))?,
        )?;
        let function = match self.loaded.entry(script.name) {
            Entry::Occupied(loaded) => loaded.into_mut(),
            Entry::Vacant(place) => place.insert(load(&self.lua, script)?),
        };
        from_lua(self.attempt.call::<LuaValue>(&*function)?)
    }
}

/// Loads a script, and compiles it if no interpreter of this process has done so.
fn load(lua: &Lua, script: &'static Script) -> mlua::Result<Function> {
    let compiled = lock(&COMPILED).get(script.hash()).cloned();
    if let Some(bytecode) = compiled {
        return lua.load(&*bytecode).set_mode(ChunkMode::Binary).into_function();
    }
    // The shebang is the server's; a comment in its place keeps the number of lines.
    let text = match script.text().strip_prefix("#!") {
        Some(rest) => format!("--{rest}"),
        None => script.text().to_owned(),
    };
    let function = lua.load(text).set_name("@user_script").into_function()?;
    lock(&COMPILED).insert(script.hash(), function.dump(false).into());
    Ok(function)
}

/// Runs a command as a script gives it.
fn command(database: &Mutex<Database>, args: &MultiValue) -> mlua::Result<Result<Value, String>> {
    let mut args = args.iter().map(argument);
    let name = args.next().unwrap_or_else(|| Ok(Bytes::new()))?;
    let args = args.collect::<Result<Vec<_>, _>>()?;
    Ok(lock(database).execute(&String::from_utf8_lossy(&name), &args))
}

/// An argument that a script gives to a command.
fn argument(value: &LuaValue) -> mlua::Result<Bytes> {
    const EXACT: i64 = 100_000_000_000_000_000;
    match value {
        LuaValue::String(text) => Ok(text.as_bytes().to_vec()),
        LuaValue::Integer(n) if (-EXACT..EXACT).contains(n) => Ok(n.to_string().into_bytes()),
        #[allow(clippy::cast_precision_loss)] // it came from one
        LuaValue::Integer(n) => Ok(general(*n as f64).into_bytes()),
        LuaValue::Number(n) => Ok(general(*n).into_bytes()),
        other => Err(mlua::Error::RuntimeError(format!(
            "ERR Lua redis lib command arguments must be strings or integers, not {}",
            other.type_name()
        ))),
    }
}

fn to_lua(lua: &Lua, reply: Value) -> mlua::Result<LuaValue> {
    Ok(match reply {
        Value::Int(n) => LuaValue::Integer(n),
        Value::BulkString(text) => LuaValue::String(lua.create_string(text)?),
        Value::Okay => LuaValue::Table(lua.create_table_from([("ok", "OK")])?),
        Value::Array(values) => {
            let table = lua.create_table_with_capacity(values.len(), 0)?;
            for value in values {
                table.raw_push(to_lua(lua, value)?)?;
            }
            LuaValue::Table(table)
        }
        // The commands give nothing else.
        _ => LuaValue::Boolean(false),
    })
}

fn decoded(lua: &Lua, json: serde_json::Value) -> mlua::Result<LuaValue> {
    use serde_json::Value as Json;
    Ok(match json {
        Json::Null => LuaValue::NULL,
        Json::Bool(flag) => LuaValue::Boolean(flag),
        Json::Number(n) => LuaValue::Number(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => LuaValue::String(lua.create_string(text)?),
        Json::Array(values) => {
            let values = values.into_iter().map(|value| decoded(lua, value));
            LuaValue::Table(lua.create_sequence_from(values.collect::<Result<Vec<_>, _>>()?)?)
        }
        Json::Object(fields) => {
            let table = lua.create_table()?;
            for (key, value) in fields {
                table.raw_set(key, decoded(lua, value)?)?;
            }
            LuaValue::Table(table)
        }
    })
}

fn from_lua(value: LuaValue) -> mlua::Result<Value> {
    Ok(match value {
        LuaValue::String(text) => Value::BulkString(text.as_bytes().to_vec()),
        LuaValue::Integer(n) => Value::Int(n),
        #[allow(clippy::cast_possible_truncation)] // as Redis does
        LuaValue::Number(n) => Value::Int(n as i64),
        LuaValue::Boolean(true) => Value::Int(1),
        LuaValue::Table(table) => table_reply(&table)?,
        _ => Value::Nil,
    })
}

fn table_reply(table: &Table) -> mlua::Result<Value> {
    if let LuaValue::String(text) = table.raw_get("err")? {
        return Ok(error_reply(&text.to_string_lossy()));
    }
    let mut values = Vec::with_capacity(table.raw_len());
    for at in 1.. {
        match table.raw_get(at)? {
            LuaValue::Nil => break,
            value => values.push(from_lua(value)?),
        }
    }
    Ok(Value::Array(values))
}

/// As the driver reads it from a server.
pub(super) fn error_reply(text: &str) -> Value {
    let line = text.replace(['\r', '\n'], " ");
    redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap_or(Value::Nil)
}

fn explain(error: &mlua::Error) -> String {
    match error {
        // One of ours, raised by a command: it carries its code.
        mlua::Error::CallbackError { cause, .. } => match &**cause {
            mlua::Error::RuntimeError(text) => text.clone(),
            other => format!("ERR {other}"),
        },
        other => format!("ERR {}", other.to_string().lines().next().unwrap_or_default()),
    }
}

pub(super) fn unusable(error: &mlua::Error) -> Error {
    Error::Refused {
        reason: format!("the embedded Lua does not start: {error}"),
    }
}

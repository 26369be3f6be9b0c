//! Every operation that a program may await, each in the midst of what it needs before and after it.

use std::time::Duration;

use tenure::{Client, Compare, KeyedLock, LockSet, Options, PoolLease, Semaphore, control::Resource};

use super::{Drop, Result, at_every_await, on_the_way, polled};

/// Shorter than the other one holds.
const SHORT: Duration = Duration::from_millis(5);

pub(super) fn semaphore(client: &Client) -> Result<Semaphore> {
    Ok(client.semaphore("s")?.or_permits(2)?)
}

fn keyed(client: &Client) -> Result<KeyedLock> {
    Ok(client.keyed_lock("k", [("id", 2)])?)
}

fn many(client: &Client) -> Result<LockSet> {
    Ok(client.lock_set([1, 2, 3].map(|id| ("k", [("id", id)])))?)
}

fn members() -> [Resource; 2] {
    ["m", "n"].map(Resource::new)
}

/// A lease that another handle can adopt, unless the future ends before: then it is released as any.
async fn adopted<L>(
    lease: tenure::Lease,
    adopt: impl AsyncFnOnce(String) -> std::result::Result<Option<L>, tenure::Error>,
) -> Result {
    // From here to the adoption the token is the program's to keep: dropping it is not a drop of the future.
    let token = lease.detach();
    adopt(token).await?.ok_or("nothing to adopt")?;
    Ok(())
}

/// All rows: the name of a test, its operations as `file::function`, and the attempt.
macro_rules! table {
    ($($name:ident [$($operation:literal),+]: $attempt:expr;)*) => {
        const OPERATIONS: &[&str] = &[$($($operation),+),*];

        $(
            #[tokio::test(start_paused = true)]
            async fn $name() -> Result {
                at_every_await($attempt).await
            }
        )*
    };
}

table! {
    lock_acquire ["lock::acquire"]: async |a: Client| {
        drop(a.lock("x")?.acquire().await?);
        Ok(())
    };
    lock_acquire_timeout ["lock::acquire_timeout"]: async |a: Client| {
        drop(a.lock("x")?.acquire_timeout(SHORT).await?);
        Ok(())
    };
    lock_try_acquire ["lock::try_acquire"]: async |a: Client| {
        drop(a.lock("x")?.try_acquire().await?);
        Ok(())
    };
    lock_looks ["lock::holder", "lock::is_locked", "lock::status"]: async |a: Client| {
        let lock = a.lock("x")?;
        let _lease = lock.acquire().await?;
        lock.holder().await?.ok_or("there is no holder")?;
        lock.is_locked().await?;
        lock.status(SHORT).await?;
        Ok(())
    };
    lock_take_over ["lock::take_over"]: async |a: Client| {
        drop(a.lock("x")?.take_over("it is ours").await?);
        Ok(())
    };
    lease_release ["guard::release"]: async |a: Client| Ok(a.lock("x")?.acquire().await?.release().await?);
    lease_while_held ["guard::while_held"]: async |a: Client| {
        let lease = a.lock("x")?.acquire().await?;
        lease.while_held(async |lease| lease.renew().await).await??;
        Ok(())
    };
    lease_renew ["guard::renew"]: async |a: Client| {
        let lease = a.lock("x")?.acquire().await?;
        lease.renew().await?;
        Ok(())
    };
    lease_lost ["guard::lost"]: async |a: Client| {
        let once = Options::new().lease(Duration::from_millis(200)).max_hold(Duration::from_millis(300));
        a.lock("x")?.with(once).acquire().await?.lost().await;
        Ok(())
    };
    keyed_lock ["keyed_lock::acquire", "keyed_lock::release", "keyed_lock::acquire_timeout", "keyed_lock::try_acquire"]: async |a: Client| {
        keyed(&a)?.acquire().await?.release().await?;
        drop(keyed(&a)?.acquire_timeout(SHORT).await?);
        drop(keyed(&a)?.try_acquire().await?);
        Ok(())
    };
    lock_set_acquire ["lock_set::acquire", "lock_set::release"]: async |a: Client| Ok(many(&a)?.acquire().await?.release().await?);
    lock_set_acquire_timeout ["lock_set::acquire_timeout"]: async |a: Client| {
        drop(many(&a)?.acquire_timeout(SHORT).await?);
        Ok(())
    };
    lock_set_try_acquire ["lock_set::try_acquire"]: async |a: Client| {
        drop(many(&a)?.try_acquire().await?);
        Ok(())
    };
    reentrant_lock ["reentrant_lock::acquire", "reentrant_lock::acquire_timeout", "reentrant_lock::try_acquire", "reentrant_lock::release"]: async |a: Client| {
        let lock = a.reentrant_lock("x")?;
        let outer = lock.acquire().await?;
        let inner = lock.acquire_timeout(SHORT).await?;
        drop(lock.try_acquire().await?);
        assert!(lock.depth() >= 1);
        drop(inner);
        Ok(outer.release().await?)
    };
    rw_lock_read ["rw_lock::read", "rw_lock::read_timeout", "rw_lock::try_read"]: async |a: Client| {
        drop(a.rw_lock("r")?.read().await?);
        drop(a.rw_lock("r")?.read_timeout(SHORT).await?);
        drop(a.rw_lock("r")?.try_read().await?);
        Ok(())
    };
    rw_lock_write ["rw_lock::write", "rw_lock::release", "rw_lock::write_timeout", "rw_lock::try_write"]: async |a: Client| {
        a.rw_lock("r")?.write().await?.release().await?;
        drop(a.rw_lock("r")?.write_timeout(SHORT).await?);
        drop(a.rw_lock("r")?.try_write().await?);
        Ok(())
    };
    rw_lock_downgrade ["rw_lock::downgrade"]: async |a: Client| {
        let read = a.rw_lock("r")?.write().await?.downgrade().await?;
        Ok(read.release().await?)
    };
    semaphore_acquire ["semaphore::acquire", "semaphore::acquire_timeout", "semaphore::try_acquire"]: async |a: Client| {
        drop(semaphore(&a)?.acquire().await?);
        drop(semaphore(&a)?.acquire_timeout(SHORT).await?);
        drop(semaphore(&a)?.try_acquire().await?);
        Ok(())
    };
    semaphore_acquire_many ["semaphore::acquire_many", "semaphore::acquire_many_timeout", "semaphore::try_acquire_many"]: async |a: Client| {
        drop(semaphore(&a)?.acquire_many(2).await?);
        drop(semaphore(&a)?.acquire_many_timeout(2, SHORT).await?);
        drop(semaphore(&a)?.try_acquire_many(2).await?);
        Ok(())
    };
    semaphore_available_permits ["semaphore::available_permits"]: async |a: Client| {
        let _lease = semaphore(&a)?.acquire().await?;
        semaphore(&a)?.available_permits().await?;
        Ok(())
    };
    condition_wait ["condvar::wait", "condvar::notify"]: async |a: Client| {
        let lock = a.lock("x")?;
        let condition = lock.condvar("c")?;
        let lease = lock.acquire().await?;
        let (waited, notified) = tokio::join!(condition.wait(lease), async {
            let lease = lock.acquire().await?;
            condition.notify(&lease, 1).await
        });
        drop(waited?);
        notified?;
        Ok(())
    };
    condition_wait_while ["condvar::wait_while", "condvar::notify_all"]: async |a: Client| {
        let lock = a.lock("x")?;
        let condition = lock.condvar("c")?;
        let lease = lock.acquire().await?;
        let mut looks = 0;
        let waits = condition.wait_while(lease, || {
            looks += 1;
            std::future::ready(looks < 2)
        });
        let (waited, notified) = tokio::join!(waits, async {
            let lease = lock.acquire().await?;
            condition.notify_all(&lease).await
        });
        drop(waited?);
        notified?;
        Ok(())
    };
    condition_wait_timeout ["condvar::wait_timeout"]: async |a: Client| {
        let lock = a.lock("x")?;
        let lease = lock.acquire().await?;
        let (_lease, notified) = lock.condvar("c")?.wait_timeout(lease, SHORT).await?;
        if notified { Err("no notification was sent".into()) } else { Ok(()) }
    };
    pool_acquire ["pool::acquire", "pool::acquire_timeout", "pool::try_acquire", "pool::release"]: async |a: Client| {
        let pool = a.lock_pool("p")?;
        pool.assign(members()).await?;
        let seat = pool.acquire().await?;
        drop(pool.acquire_timeout(SHORT).await?);
        drop(pool.clone().named(["m", "n"])?.acquire_timeout(SHORT).await?);
        drop(pool.try_acquire().await?);
        Ok(seat.release().await?)
    };
    pool_while_held ["pool::while_held"]: async |a: Client| {
        let pool = a.lock_pool("p")?;
        pool.assign(members()).await?;
        let seat = pool.acquire().await?;
        seat.while_held(async |seat| seat.renew().await).await??;
        Ok(())
    };
    lock_set_lost ["lock_set::lost"]: async |a: Client| {
        let once = Options::new().lease(Duration::from_millis(200)).max_hold(Duration::from_millis(300));
        many(&a)?.with(once).acquire().await?.lost().await;
        Ok(())
    };
    pool_members ["members::assign", "members::extend", "members::shrink", "members::contains", "members::list", "members::health", "members::clear"]: async |a: Client| {
        let pool = a.lock_pool("p")?;
        pool.assign(members()).await?;
        pool.extend([Resource::new("o")]).await?;
        pool.shrink(["m"]).await?;
        pool.contains("n").await?;
        pool.list().await?;
        pool.health().await?;
        Ok(pool.clear().await?)
    };
    register ["register::set", "register::set_if", "register::get", "register::get_with_expiry", "register::advance", "register::delete_if", "register::delete"]: async |a: Client| {
        let value = a.register("v")?;
        value.set(1).await?;
        assert!(value.set_if(Compare::eq(1), 2).await?.is_applied());
        value.get().await?;
        value.get_with_expiry().await?;
        value.advance(3).await?;
        assert!(!value.delete_if(Compare::eq(4)).await?.is_applied());
        value.delete().await?;
        Ok(())
    };
    client_connect_and_close ["client::close_timeout", "client::close"]: async |a: Client| {
        drop(a.lock("x")?.acquire().await?);
        a.clone().close_timeout(std::time::Duration::from_secs(1)).await;
        a.close().await;
        Ok(())
    };
}

/// A dropped adoption releases what it got, or has got nothing: then the lease stays detached, and runs out.
#[tokio::test(start_paused = true)]
async fn a_dropped_adoption_is_given_back_or_may_be_tried_again() -> Result {
    let mut given_back = 0;
    for (drop, lose) in [
        (Drop::AtOnce, None),
        (Drop::WhenWoken, None),
        (Drop::AtOnce, Some(1)),
    ] {
        for times in 1.. {
            let memory = tenure::Memory::seeded(1);
            let (a, b) = (
                super::client(&memory, "a").await?,
                super::client(&memory, "b").await?,
            );
            let secret = a.lock("x")?.acquire().await?.detach();
            on_the_way(&memory, lose);
            let lock = b.lock("x")?;
            let ended = polled(lock.adopt(&secret), times, drop).await;
            memory.clear_faults();
            match ended {
                Some(lease) => {
                    lease?.ok_or("nothing to adopt")?.release().await?;
                    break;
                }
                None => tokio::time::sleep(Duration::from_secs(3)).await,
            }
            if a.lock("x")?.is_locked().await? {
                std::mem::drop(lock.adopt(&secret).await?.ok_or("held, and cannot be adopted")?);
            } else {
                given_back += 1;
            }
        }
    }
    assert!(given_back > 0);
    Ok(())
}

/// A detached lease belongs to the program until `adopt`, so this operation is not among those that leave nothing.
#[tokio::test(start_paused = true)]
async fn adopting_ends_in_a_lease_that_is_given_back() -> Result {
    for kind in ["lock", "semaphore", "pool"] {
        let memory = tenure::Memory::seeded(1);
        let a = super::client(&memory, "a").await?;
        match kind {
            "lock" => {
                let lock = a.lock("x")?;
                adopted(lock.acquire().await?, async |token| lock.adopt(&token).await).await?;
            }
            "semaphore" => {
                let semaphore = semaphore(&a)?;
                adopted(semaphore.acquire().await?, async |token| {
                    semaphore.adopt(&token).await
                })
                .await?;
            }
            _ => {
                let pool = a.lock_pool("p")?;
                pool.assign(members()).await?;
                let seat = PoolLease::into_lease(pool.acquire().await?);
                adopted(seat, async |token| pool.adopt(&token).await).await?;
            }
        }
        super::nothing_is_left(&memory, &a, kind).await?;
    }
    Ok(())
}

/// Operations without a row: connecting has nothing to leave behind, and a detached lease belongs to the program until `adopt`
/// (see the tests above).
const ELSEWHERE: &[&str] = &[
    "builder::connect",
    "builder::from_env",
    "connect::connect",
    "lock::adopt",
    "pool::adopt",
    "rw_lock::adopt",
    "semaphore::adopt",
];

/// The futures of the primitives.
#[test]
fn every_operation_stands_in_the_table() -> Result {
    let mut found = Vec::new();
    let mut files = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src"
    ))];
    while let Some(path) = files.pop() {
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        // The controller's side takes nothing.
        if name == "control" {
            continue;
        }
        if path.is_dir() {
            for file in std::fs::read_dir(&path)? {
                files.push(file?.path());
            }
            continue;
        }
        let file = match (name, path.parent().and_then(|folder| folder.file_name())) {
            ("mod", Some(folder)) => folder.to_string_lossy().into_owned(),
            _ => name.to_owned(),
        };
        let source = std::fs::read_to_string(&path)?;
        for operation in source.split("pub async fn ").skip(1) {
            let operation: String = operation
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let function = format!("{file}::{operation}");
            assert!(
                OPERATIONS.contains(&&*function) || ELSEWHERE.contains(&&*function),
                "{function} is not in the table"
            );
            found.push(function);
        }
    }
    let rows = OPERATIONS.iter().chain(ELSEWHERE);
    let gone: Vec<_> = rows
        .filter(|row| !found.iter().any(|function| function == **row))
        .collect();
    assert!(gone.is_empty(), "in the table, and gone: {gone:?}");
    Ok(())
}

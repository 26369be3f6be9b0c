//! Values that the chart refuses, and its messages.

use std::process::Command;

use tenure_tests::{Result, bail, binaries, ensure};

use super::{RELEASE, chart, helm};

/// Renders the chart with `--set`, and returns the error.
async fn refusal(set: &str) -> Result<String> {
    match helm(&["template", RELEASE, &chart(), "--set", set]).await {
        Ok(_) => bail!("{set} is taken"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// Checks that Helm refuses a value with this message.
pub(super) async fn is_refused(set: &str, message: &str) -> Result {
    let error = refusal(set).await?;
    ensure!(error.contains(message), "{set}: {error}");
    Ok(())
}

#[tokio::test]
async fn a_typo_is_refused_with_a_message_that_names_it() -> Result {
    for (set, message) in [
        (
            "redis.persistance.enabled=false",
            "at '/redis': additional properties 'persistance' not allowed",
        ),
        ("colour=red", "additional properties 'colour' not allowed"),
        (
            "image.name=x",
            "at '/image': additional properties 'name' not allowed",
        ),
        (
            "controller.logformat=json",
            "at '/controller': additional properties 'logformat' not allowed",
        ),
        (
            "crds.keep=true",
            "at '/crds': additional properties 'keep' not allowed",
        ),
        (
            "redis.auth.password=secret",
            "at '/redis/auth': additional properties 'password' not allowed",
        ),
        (
            "externalRedis.url=redis://r",
            "at '/externalRedis': additional properties 'url' not allowed",
        ),
        (
            "externalRedis.tls.key=x",
            "at '/externalRedis/tls': additional properties 'key' not allowed",
        ),
        (
            "redis.resources.limit.memory=1Gi",
            "at '/redis/resources': additional properties 'limit' not allowed",
        ),
        ("imagePullSecrets[0].secret=x", "at '/imagePullSecrets/0': "),
        (
            "controller.tolerations[0].keys=x",
            "at '/controller/tolerations/0': additional properties 'keys' not allowed",
        ),
        (
            "controller.affinity.podAntiaffinity.x=y",
            "at '/controller/affinity': additional properties 'podAntiaffinity' not allowed",
        ),
        ("controller.extraEnv[0].value=x", "missing property 'name'"),
        (
            "controller.topologySpreadConstraints[0].topologyKey=x",
            "missing properties 'maxSkew', 'whenUnsatisfiable'",
        ),
        (
            "controller.networkPolicy.scrapers[0].namespace=x",
            "additional properties 'namespace' not allowed",
        ),
        (
            "redis.topologySpreadConstraints[0].maxSkew=1",
            "additional properties 'topologySpreadConstraints' not allowed",
        ),
    ] {
        is_refused(set, message).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_value_of_another_type_is_refused_with_a_message_that_names_both() -> Result {
    for (set, message) in [
        (
            "controller.logFormat=xml",
            "at '/controller/logFormat': value must be one of 'json', 'human'",
        ),
        (
            "controller.drainTimeout=300",
            "at '/controller/drainTimeout': got number, want string",
        ),
        (
            "controller.replicas=two",
            "at '/controller/replicas': got string, want integer",
        ),
        (
            "redis.appendFsync=never",
            "at '/redis/appendFsync': value must be one of 'everysec', 'always'",
        ),
        (
            "redis.mode=cluster",
            "at '/redis/mode': value must be one of 'standalone', 'replicated'",
        ),
        (
            "redis.replicated.downAfterSeconds=4",
            "at '/redis/replicated/downAfterSeconds': minimum: got 4, want 5",
        ),
        (
            "redis.networkPolicy.clients=Some",
            "value must be one of 'Labelled', 'All'",
        ),
        (
            "redis.enabled=no",
            "at '/redis/enabled': got string, want boolean",
        ),
    ] {
        is_refused(set, message).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_text_is_refused_with_a_message_that_names_it_and_the_fix() -> Result {
    for (set, message) in [
        (
            "watchNamespaces[0]=Ml",
            "watchNamespaces[0] is \"Ml\": write the name of a namespace",
        ),
        (
            "controller.cleanupTimeout=soon",
            "controller.cleanupTimeout is \"soon\": write a number above zero and a unit, such as 90s, 5m or 1h30m",
        ),
        (
            "controller.drainTimeout=0s",
            "controller.drainTimeout is \"0s\": write a number above zero",
        ),
        (
            "metrics.serviceMonitor.interval=1d",
            "metrics.serviceMonitor.interval is \"1d\": write a number above zero",
        ),
        (
            "controller.logLevel=loud",
            "controller.logLevel is \"loud\": write error, warn, info, debug or trace",
        ),
        (
            "controller.listenAddress=::",
            "controller.listenAddress is \"::\": write 0.0.0.0, or [::]",
        ),
        (
            "controller.listenAddress=300.0.0.0",
            "controller.listenAddress is \"300.0.0.0\"",
        ),
        (
            "controller.podDisruptionBudget.maxUnavailable=half",
            "maxUnavailable is \"half\": write a number of pods, or a part of them, such as 50%",
        ),
        (
            "controller.podLabels.app\\.kubernetes\\.io/name=x",
            "controller.podLabels has app.kubernetes.io/name, which the chart sets",
        ),
        (
            "redis.maxMemory=lots",
            "redis.maxMemory is \"lots\": write a whole number and a unit, such as 128mb or 1gb",
        ),
        (
            "redis.persistence.size=big",
            "redis.persistence.size is \"big\": write a quantity, such as 0.5, 500m, 256Mi or 1Gi",
        ),
        (
            "controller.resources.limits.cpu=1 core",
            "controller.resources.limits.cpu is \"1 core\": write a quantity",
        ),
        (
            "redis.replicated.sentinel.resources.limits.cpu=1 core",
            "redis.replicated.sentinel.resources.limits.cpu is \"1 core\": write a quantity",
        ),
        (
            "redis.auth.existingSecret=My_Secret",
            "redis.auth.existingSecret is \"My_Secret\": write a name of lower-case letters",
        ),
        (
            "imagePullSecrets[0].name=a/b",
            "imagePullSecrets[0].name is \"a/b\": write a name",
        ),
        (
            "externalRedis.tls.caKey=a/b",
            "externalRedis.tls.caKey is \"a/b\": write a key of a Secret",
        ),
        (
            "fullnameOverride=9-lives",
            "fullnameOverride is \"9-lives\": write a name of lower-case letters, digits and '-'",
        ),
        (
            "image.repository=r/t@sha256:0f3c",
            "image.repository is \"r/t@sha256:0f3c\", with a digest: write the digest into image.digest",
        ),
        (
            "redis.image.repository=localhost:5000/redis:7",
            "with a tag: write the tag into redis.image.tag",
        ),
        (
            "test.image.repository=",
            "test.image.repository is \"\": write the name of an image",
        ),
        (
            "image.digest=0f3c",
            "image.digest is \"0f3c\": write sha256: and 64 hexadecimal digits",
        ),
        ("image.tag=a b", "image.tag is \"a b\": write a tag of letters"),
        (
            "redis.image.tag=",
            "redis.image has neither a tag nor a digest: set redis.image.tag",
        ),
        (
            "metrics.prometheusRule.runbookUrl=runbooks",
            "runbookUrl is \"runbooks\": write an address that begins with https://",
        ),
    ] {
        let error = refusal(set).await?;
        ensure!(error.contains(message), "{set}: {error}");
        ensure!(!error.contains('^'), "a regular expression is shown: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn values_that_do_not_go_together_are_refused() -> Result {
    for (set, message) in [
        (
            "redis.enabled=false",
            "externalRedis.existingSecret is empty: name a Secret",
        ),
        (
            "externalRedis.existingSecret=mine",
            "set redis.enabled=false to use a Redis of yours",
        ),
        (
            "externalRedis.tls.existingSecret=mine",
            "externalRedis.tls.existingSecret is set, but redis.enabled is true",
        ),
        (
            "externalRedis.podSecret=mine",
            "externalRedis has username, passwordKey, podSecret or keyPrefix, but redis.enabled is true",
        ),
        (
            "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.username=b",
            "externalRedis.passwordKey is empty: name the key",
        ),
        (
            "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.passwordKey=b",
            "set externalRedis.podSecret for the pods, or access.enabled=true",
        ),
        (
            "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.podSecret=b,access.enabled=true",
            "access gives each namespace its own",
        ),
        (
            "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.keyPrefix=a b",
            "externalRedis.keyPrefix is \"a b\": write letters",
        ),
        (
            "redis.tls.existingSecret=mine",
            "redis.tls names a certificate, but redis.tls.enabled is false",
        ),
        (
            "redis.tls.enabled=true,redis.tls.existingSecret=a,redis.tls.certManager.issuerRef.name=b",
            "name the Secret of yours, or the issuer that makes one",
        ),
        (
            "redis.tls.enabled=true,redis.enabled=false,externalRedis.existingSecret=mine",
            "redis.tls.enabled is true, but redis.enabled is false",
        ),
        (
            "externalRedis.tls.certKey=tls.crt",
            "a certificate and its private key go together",
        ),
        (
            "fullnameOverride=a-name-that-has-forty-seven-letters-and-hyphens",
            "with more than 52 characters, and could make no pod: set a shorter fullnameOverride",
        ),
        (
            "redis.mode=replicated,redis.tls.enabled=true",
            "redis.tls.enabled is true, but redis.mode is replicated",
        ),
        (
            "redis.mode=replicated,redis.enabled=false,externalRedis.existingSecret=mine",
            "redis.mode is replicated, but redis.enabled is false",
        ),
        (
            "serviceAccount.create=false",
            "serviceAccount.name is empty: name an account, or let the chart create one",
        ),
        (
            "serviceAccount.create=false,serviceAccount.name=mine,serviceAccount.annotations.a=b",
            "annotate the account of yours instead",
        ),
        (
            "metrics.serviceMonitor.enabled=true",
            "controller.networkPolicy admits no scraper: name the pods of Prometheus",
        ),
        (
            "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true",
            "each pod would be scraped twice: enable one of them",
        ),
        (
            "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false",
            "metrics.service.enabled is false: enable the Service",
        ),
    ] {
        is_refused(set, message).await?;
    }
    Ok(())
}

#[tokio::test]
async fn redis_must_fit_into_its_limit_of_memory() -> Result {
    for (memory, limit, fits) in [
        ("128mb", "256Mi", true),
        ("400mb", "256Mi", false),
        ("256mb", "256Mi", false),
        ("255mb", "256Mi", true),
        // Both have units of a thousand and of 1024.
        ("256m", "256M", false),
        ("256m", "256Mi", true),
        ("1gb", "1G", false),
        ("1g", "1Gi", true),
        ("1gb", "1.5Gi", true),
        ("1gb", "1073741824", false),
        ("1gb", "1.1e9", true),
        ("1kb", "1025000m", true),
        ("1kb", "1024000m", false),
        // Without a limit there is nothing to compare with.
        ("400mb", "null", true),
    ] {
        let set = format!("redis.maxMemory={memory},redis.resources.limits.memory={limit}");
        if fits {
            helm(&["template", RELEASE, &chart(), "--set", &set]).await?;
        } else {
            let error = refusal(&set).await?;
            let message = "the kernel would end Redis before it refuses a write";
            ensure!(error.contains(message), "{set}: {error}");
        }
    }
    let set = "redis.maxMemory=400mb,redis.resources=null";
    helm(&["template", RELEASE, &chart(), "--set", set]).await?;
    Ok(())
}

/// A value that passes here and not there would only show in the log of a pod that does not start.
#[tokio::test]
async fn the_controller_takes_the_texts_that_the_chart_takes() -> Result {
    let program = binaries::find("tenure-controller")?;
    let taken_by_controller = |flag: &str, text: &str| -> Result<bool> {
        let mut command = Command::new(&program);
        // Flags are checked before the version is printed.
        command.args([&format!("{flag}={text}"), "--version"]).env_clear();
        Ok(command.output()?.status.success())
    };
    let durations = ["90s", "5m", "1h30m", "1h1m1s1ms", "999999999h", "10ms", "007s"];
    let no_durations = ["0s", "0h0m", "1m1h", "1s1s", "soon", "-5s", "1", "s", ""];
    let levels = [
        "off",
        "error",
        "trace",
        "info,kube=debug",
        "kube::runtime=warn,debug",
        "tenure-controller=info",
    ];
    let no_levels = ["", "5", "kube=loud"];
    let addresses = [
        "0.0.0.0",
        "[::]",
        "10.0.0.1",
        "255.255.255.255",
        "[::ffff:10.0.0.1]",
    ];
    let no_addresses = ["::", "localhost", "256.0.0.1", "1.2.3", "[::", ""];
    for (key, flag, port, good, bad) in [
        (
            "drainTimeout",
            "--drain-timeout",
            "",
            &durations[..],
            &no_durations[..],
        ),
        ("logLevel", "--log-level", "", &levels, &no_levels),
        ("listenAddress", "--listen", ":8080", &addresses, &no_addresses),
    ] {
        let taken = good.iter().map(|text| (text, true));
        for (text, taken) in taken.chain(bad.iter().map(|text| (text, false))) {
            let escaped = text.replace(',', "\\,");
            let set = format!("controller.{key}={escaped}");
            let by_chart = helm(&["template", RELEASE, &chart(), "--set-string", &set]).await;
            ensure!(by_chart.is_ok() == taken, "{set}: the chart takes it: {}", !taken);
            let by_controller = taken_by_controller(flag, &format!("{text}{port}"))?;
            ensure!(
                by_controller == taken,
                "{flag}={text}: the controller takes it: {}",
                !taken
            );
        }
    }
    Ok(())
}

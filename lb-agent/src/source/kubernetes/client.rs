//! The connection to the API.
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

/// A server that does not take a connection within that time is taken for away.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no connection to even try.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig is of no use.
    #[error("cannot use the kubeconfig {}: {reason}; correct it, or give another by --kubeconfig (KUBECONFIG)", path.display())]
    Kubeconfig {
        /// Its path, or several with colons between.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is none, and this is no pod.
    #[error(
        "no Kubernetes API is known: this is not a pod (KUBERNETES_SERVICE_HOST is not set) and \
         there is no kubeconfig; give one by --kubeconfig (KUBECONFIG), or a folder by --manifests"
    )]
    NoKubeconfig,
    /// This is a pod, but without the credentials that pods have.
    #[error(
        "cannot use the pod's credentials: {0}; let the pod have its service account's token \
         (automountServiceAccountToken), or give --kubeconfig"
    )]
    Pod(String),
}

/// Makes a client, by the kubeconfig if there is one, else as a pod, else by `~/.kube/config`.
/// Returns it with the address of the API. Nothing is sent yet.
///
/// # Errors
/// Where nothing tells how to reach an API.
pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<(Client, String), ClientError> {
    let home = env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists());
    let (path, mut config) = if let Some(path) = kubeconfig {
        (path.to_owned(), read(path).await?)
    } else if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        let config = Config::incluster().map_err(|e| ClientError::Pod(e.to_string()))?;
        (PathBuf::new(), config)
    } else if let Some(path) = home {
        let config = read(&path).await?;
        (path, config)
    } else {
        return Err(ClientError::NoKubeconfig);
    };
    config.connect_timeout = Some(CONNECT);
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).map_err(|e| unusable(&path, &e))?;
    Ok((client, server))
}

async fn read(path: &Path) -> Result<Config, ClientError> {
    let mut merged = Kubeconfig::default();
    for part in env::split_paths(path).filter(|part| !part.as_os_str().is_empty()) {
        let one = Kubeconfig::read_from(&part).map_err(|e| unusable(&part, &e))?;
        merged = merged.merge(one).map_err(|e| unusable(path, &e))?;
    }
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(merged, &options).await.map_err(|e| unusable(path, &e))
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> ClientError {
    // The parser draws the place over several lines; the first says what is wrong.
    let mut reason = error.to_string();
    reason.truncate(reason.find('\n').unwrap_or(reason.len()));
    ClientError::Kubeconfig { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn error(content: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let error = connect(Some(&path)).await.err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains("--kubeconfig"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[tokio::test]
    async fn an_unreadable_kubeconfig_is_named_with_the_way_out() {
        assert!(error(None).await.contains("No such file"));
        error(Some("clusters: [")).await;
        error(Some("[]")).await;
        assert!(error(Some("apiVersion: v1\nkind: Config")).await.contains("context"));
        let no_cluster = "contexts: [{name: a, context: {cluster: b}}]\ncurrent-context: a";
        assert!(error(Some(no_cluster)).await.contains("cluster of context"));
    }
}

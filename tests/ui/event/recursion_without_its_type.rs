use streams_core::{event_type, stream_event};

#[event_type]
struct Folder {
    files: Vec<File>,
}

#[event_type]
struct File {
    #[event(recursive)]
    inside: Option<Box<Folder>>,
}

#[stream_event(stream = "folders")]
struct FolderMade {
    folder: Folder,
}

#[stream_event(stream = "files")]
struct FileMade {
    file: File,
}

fn main() {}
